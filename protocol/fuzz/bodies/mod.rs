//! What the fuzz targets do with their input. A body returns, whatever the input is; when it panics, a
//! promise is broken.
#![allow(dead_code, reason = "each target uses one body")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a body that panics has found something"
)]

#[path = "../../tests/samples/mod.rs"]
pub(crate) mod samples;

pub(crate) mod decode;
pub(crate) mod line;
pub(crate) mod reconcile;
pub(crate) mod seal;
