//! Where does this event go, and why not elsewhere
