//! Frames between routers as structs, and their bytes
