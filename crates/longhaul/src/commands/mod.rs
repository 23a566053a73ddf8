//! One file per command.

pub(crate) mod certs;
pub(crate) mod generate;
pub(crate) mod parked;
pub(crate) mod publish;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod subscribe;
pub(crate) mod tap;
pub(crate) mod top;
pub(crate) mod up;
pub(crate) mod validate;
