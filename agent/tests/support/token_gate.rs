//! A registry that wants tokens: a gate before one that doesn't, and the server that gives them away.

use super::faulty_proxy::{Fault, FaultyProxy, Seen};
use super::registry::basic;

/// How the gate is to be.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Whom it gives tokens to; without one, to everybody.
    pub login: Option<(String, String)>,
    /// The name of the field with the token.
    pub field: &'static str,
    /// For how many requests a token holds.
    pub uses: usize,
}

impl Gate {
    /// A gate that gives everybody a token that holds for ever.
    pub fn open() -> Self {
        Gate { login: None, field: "token", uses: usize::MAX }
    }

    /// Stands before the registry on `port`.
    pub fn before(self, port: u16) -> FaultyProxy {
        let counted = std::sync::atomic::AtomicUsize::new(0);
        let expected = self.login.as_ref().map(|(user, password)| basic(user, password));
        FaultyProxy::start(port, move |request: &Seen| {
            if request.path.starts_with("/token") {
                return self.give(request, expected.as_deref());
            }
            let used = counted.load(std::sync::atomic::Ordering::SeqCst);
            let token = format!("Bearer t{}", used / self.uses);
            if request.header("authorization") == Some(token.as_str()) {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                return Fault::Pass;
            }
            let host = request.header("host").unwrap_or_default();
            let challenge = format!(
                "Bearer realm=\"http://{host}/token/{}\",service=\"gate\",scope=\"x\"",
                used / self.uses
            );
            Fault::status(401, &[("WWW-Authenticate", &challenge)])
        })
    }

    fn give(&self, request: &Seen, expected: Option<&str>) -> Fault {
        if expected.is_some() && request.header("authorization") != expected {
            return Fault::status(401, &[]);
        }
        let number = request.path.trim_start_matches("/token/").split('?').next().unwrap_or_default();
        let body = format!("{{\"{}\":\"t{number}\",\"expires_in\":300}}", self.field);
        Fault::Answer(200, vec![("Content-Type".to_owned(), "application/json".to_owned())], body)
    }
}
