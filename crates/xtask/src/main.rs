//! Automation: broker provisioning, layers and tidiness
fn main() {}
