//! Sockets whose bytes are counted.

use std::io;

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, TcpConnector, Transport,
};

use super::Line;

/// Opens sockets for a [`Line`]. What a proxy's connector opened was counted already, when this was asked for the
/// way to the proxy.
#[derive(Debug)]
pub(crate) struct Counted {
    tcp: TcpConnector,
    line: Line,
}

impl Counted {
    pub(crate) fn new(line: Line) -> Self {
        Counted { tcp: TcpConnector::default(), line }
    }
}

impl<In: Transport> Connector<In> for Counted {
    type Out = Either<In, Socket<<TcpConnector as Connector<In>>::Out>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(chained) = chained {
            return Ok(Some(Either::A(chained)));
        }
        let opened = self.tcp.connect(details, None::<In>)?;
        Ok(opened.map(|inner| Either::B(Socket { inner, line: self.line.clone() })))
    }
}

/// A socket whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Socket<T> {
    inner: T,
    line: Line,
}

impl<T: Transport> Transport for Socket<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.line.book(amount);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // What was read before is taken in full before this is asked: nothing that was paid for is lost.
        self.line.may_go_on().map_err(|used_up| Error::Io(io::Error::other(used_up)))?;
        let before = self.inner.buffers().input().len();
        let progress = self.inner.await_input(timeout);
        let came = self.inner.buffers().input().len().saturating_sub(before);
        self.line.book(came);
        progress
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
