//! An API server that is too busy: it answers 429 to others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::plane::{ControlPlane, Options};

/// Takes the API server's only place for changes: to anybody else's it answers 429, and to try again after a second.
/// Dropped, it is free again; after a minute, at the latest, too.
pub struct Occupied(#[allow(dead_code, reason = "as long as it is open")] Stream);

type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Options {
    /// An API server that works on one change at a time. The rule doesn't hold for the administrator, who is in
    /// `system:masters`: use `kubeconfig_for` with a group that has a role.
    pub fn one_change_at_a_time() -> Self {
        let flags = ["--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=1"];
        Options { api_flags: flags.map(str::to_owned).to_vec(), ..Options::default() }
    }
}

impl ControlPlane {
    /// With `Options::one_change_at_a_time`: begins a change that doesn't come to its end.
    pub fn occupy(&self) -> Occupied {
        let pair = self.certificates.client("somebody", &["system:masters"]);
        let chain = CertificateDer::pem_file_iter(&pair.certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certificates.file("server-ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        for _ in 0..1000 {
            if let Some(stream) = self.begin_change(&config) {
                return Occupied(stream);
            }
            // The server itself writes now and then.
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the API server is too busy even for one request");
    }

    /// Sends the head of a request; none if the place is taken.
    fn begin_change(&self, config: &Arc<ClientConfig>) -> Option<Stream> {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        // The server says "Continue" when it begins to read the body: then the request has its place.
        let request = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: localhost\r\n\
                       Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        stream.flush().unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (&status == b"HTTP/1.1 100").then_some(stream)
    }
}
