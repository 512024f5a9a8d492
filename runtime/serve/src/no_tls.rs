//! What stands in for TLS in a build without the feature `tls`: nothing, and a word of how to get it.

use std::io;

use crate::{
    TlsFiles,
    error::{Error, Result},
    listen::{Connection, Stream},
};

/// There is none.
pub(crate) enum Tls {}

impl Tls {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(_: &TlsFiles) -> Result<Self> {
        Err(Error::NoTls)
    }

    pub async fn accept(&self, _: Stream) -> io::Result<Box<dyn Connection>> {
        match *self {}
    }
}
