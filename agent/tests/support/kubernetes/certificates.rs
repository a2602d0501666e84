//! The certificates of a control plane: as k3s has them, with one authority for the server and one for clients, and
//! keys on P-256.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::tools::run;

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM; the leaf first, then its authority.
    pub certificate: PathBuf,
    /// PEM, `EC PRIVATE KEY`.
    pub key: PathBuf,
}

/// Both authorities, in a folder.
#[derive(Debug)]
pub(super) struct Certificates {
    dir: PathBuf,
    made: AtomicU32,
}

impl Certificates {
    /// Makes the authorities, the server's certificate, and the key that tokens of service accounts are signed with.
    pub(super) fn make(dir: &Path) -> Self {
        let certificates = Certificates { dir: dir.to_owned(), made: AtomicU32::new(0) };
        for name in ["server-ca", "client-ca"] {
            certificates.key(name);
            let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
            let subject = format!("/CN=test-{name}");
            certificates.openssl(&[
                "req", "-x509", "-new", "-days", "30", "-subj", &subject, "-key", &key, "-out", &pem,
            ]);
        }
        certificates.key("service-account");
        let names = "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc,IP:127.0.0.1";
        certificates.leaf(
            "server",
            "server-ca",
            "/CN=kube-apiserver",
            &[names, "extendedKeyUsage=serverAuth"],
        );
        certificates
    }

    /// The file of that name.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The certificate of a user, who is in these groups.
    pub(super) fn client(&self, user: &str, groups: &[&str]) -> Pair {
        let escaped = |text: &str| text.replace('/', "\\/");
        let mut subject = String::new();
        for group in groups {
            subject += &format!("/O={}", escaped(group));
        }
        subject += &format!("/CN={}", escaped(user));
        let name = format!("client-{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.leaf(&name, "client-ca", &subject, &["extendedKeyUsage=clientAuth"])
    }

    fn leaf(&self, name: &str, authority: &str, subject: &str, extensions: &[&str]) -> Pair {
        self.key(name);
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        let mut args =
            vec!["req", "-x509", "-new", "-days", "30", "-subj", subject, "-key", &key, "-out", &pem];
        args.extend(["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=critical,CA:FALSE"]);
        for extension in extensions {
            args.extend(["-addext", extension]);
        }
        self.openssl(&args);
        let chain = [self.read(&pem), self.read(&ca)].concat();
        std::fs::write(self.file(&pem), chain).unwrap();
        Pair { certificate: self.file(&pem), key: self.file(&key) }
    }

    fn key(&self, name: &str) {
        let key = format!("{name}.key");
        self.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
    }

    fn openssl(&self, args: &[&str]) {
        run(Command::new("openssl").current_dir(&self.dir).args(args));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    /// A kubeconfig in the shape of k3s's: one cluster, one user, one context, all named `default`.
    pub(super) fn kubeconfig(&self, server: &str, user: &User) -> String {
        let user = match user {
            User::Certificate(pair) => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                encoded(&pair.certificate),
                encoded(&pair.key)
            ),
            User::Token(token) => format!("    token: {token}\n"),
        };
        let authority = encoded(&self.file("server-ca.pem"));
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: {server}\n  \
             name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  name: default\n\
             current-context: default\nkind: Config\nusers:\n- name: default\n  user:\n{user}"
        )
    }
}

/// How a kubeconfig proves who it is.
pub(super) enum User {
    Certificate(Pair),
    Token(String),
}

fn encoded(file: &Path) -> String {
    BASE64.encode(std::fs::read(file).unwrap())
}
