//! Tokens (distribution's "token authentication"): where they are asked for, and those that still hold.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::error::Reason;
use super::login::Login;
use super::secret::Secret;
use super::server::Server;
use crate::http::url::escaped;

/// How many are remembered.
const MAX_KEPT: usize = 64;
/// The longest token, and the largest answer that has one.
const MAX_TOKEN: usize = 16 << 10;
pub(super) const MAX_ANSWER: usize = 64 << 10;
/// What holds for a token whose server doesn't say (distribution's specification).
const DEFAULT_LIFE: u64 = 60;
/// No token is kept for longer, whatever its server says.
const LONGEST_LIFE: u64 = 3600;

/// What a token is for: a server and a scope.
pub(super) type Key = (String, String);

/// The tokens that still hold. A server says 401 to one that doesn't, so that nothing depends on the clock.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<BTreeMap<Key, (Secret, Instant)>>);

impl Tokens {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<Key, (Secret, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Secret> {
        let kept = self.kept();
        kept.get(key).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
    }

    pub(super) fn keep(&self, key: Key, token: Token) {
        let mut kept = self.kept();
        let now = Instant::now();
        kept.retain(|_, (_, until)| *until > now);
        if kept.len() >= MAX_KEPT {
            kept.pop_first();
        }
        kept.insert(key, (token.secret, now + token.life));
    }

    pub(super) fn forget(&self, key: &Key) {
        self.kept().remove(key);
    }
}

/// A token as it came.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) secret: Secret,
    life: Duration,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) url: String,
    pub(super) authorization: Option<Secret>,
    /// A form to post; without one it is a GET.
    pub(super) form: Option<Secret>,
}

/// The request for a token of `scope` at `realm`, which `server` named.
pub(super) fn request(
    server: &Server,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    login: Option<&Login>,
) -> Result<Request, Reason> {
    let wrong = |why: &str| Reason::Protocol { why: format!("it names a token server at an address {why}") };
    let clear = realm.starts_with("http://") && server.is_plain();
    if !realm.starts_with("https://") && !clear {
        return Err(wrong("that is not https"));
    }
    if crate::http::url::authority(realm).contains('@') || realm.contains('#') || realm.len() > 2000 {
        return Err(wrong("that is not valid"));
    }
    if login.is_some() && !Server::may_send_secret_to(realm) {
        return Err(wrong("without TLS, and passwords are not sent without TLS"));
    }
    let service = service.map_or(String::new(), |service| format!("service={}&", escaped(service)));
    let query = format!("{service}scope={}", escaped(scope));
    if let Some(Login::Identity(token)) = login {
        let form = format!(
            "grant_type=refresh_token&client_id=holdfast&{query}&refresh_token={}",
            escaped(token.reveal())
        );
        return Ok(Request { url: realm.to_owned(), authorization: None, form: Some(Secret::new(form)) });
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    Ok(Request {
        url: format!("{realm}{separator}{query}"),
        authorization: login.and_then(Login::basic),
        form: None,
    })
}

/// Reads the answer.
pub(super) fn read(answer: &[u8]) -> Result<Token, Reason> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let wrong = |why: &str| Reason::Protocol { why: format!("its token server sends {why}") };
    // serde's own words might repeat the token.
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| wrong("no JSON with a token"))?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token).unwrap_or_default();
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("no token that can be used"));
    }
    let seconds = answer.expires_in.unwrap_or(DEFAULT_LIFE).min(LONGEST_LIFE);
    // A tenth earlier, so that it holds while a request is under way.
    let life = Duration::from_secs(seconds) * 9 / 10;
    Ok(Token { secret: Secret::new(token), life })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::server::servers;
    use super::*;

    fn server(plain_http: bool) -> Server {
        let section = crate::config::Registry { auth_file: None, ca_file: None, mirrors: vec![], plain_http };
        servers(&BTreeMap::from([("r.example".to_owned(), section)]), "r.example").remove(0)
    }

    fn login() -> Login {
        Login::Password { user: "edge".to_owned(), password: Secret::new("p") }
    }

    #[test]
    fn a_token_is_asked_for_by_query_or_by_form() {
        let scope = "repository:a/b:pull";
        let asked =
            request(&server(false), "https://auth/t?x=1", Some("s&y"), scope, Some(&login())).unwrap();
        assert_eq!(asked.url, "https://auth/t?x=1&service=s%26y&scope=repository%3Aa%2Fb%3Apull");
        assert!(asked.authorization.unwrap().reveal().starts_with("Basic "));
        let identity = Login::Identity(Secret::new("a b"));
        let asked = request(&server(false), "https://auth/t", None, scope, Some(&identity)).unwrap();
        assert!(
            asked.form.unwrap().reveal().ends_with("&refresh_token=a%20b") && asked.authorization.is_none()
        );
    }

    #[test]
    fn no_password_goes_where_others_can_listen() {
        let ask = |plain: bool, realm: &str, login: Option<&Login>| {
            request(&server(plain), realm, None, "x", login).map(|request| request.url)
        };
        assert!(ask(false, "http://auth.example/t", None).is_err());
        assert!(ask(true, "http://auth.example/t", None).is_ok());
        assert!(ask(true, "http://auth.example/t", Some(&login())).is_err());
        assert!(ask(true, "http://127.0.0.1:1/t", Some(&login())).is_ok());
        assert!(ask(true, "https://127.0.0.1@evil.example/t", Some(&login())).is_err());
        assert!(ask(true, "http://127.0.0.1@evil.example/t", Some(&login())).is_err());
    }

    #[test]
    fn both_names_of_a_token_are_read_and_nothing_else() {
        for good in [r#"{"token":"t"}"#, r#"{"access_token":"t"}"#, r#"{"token":"","access_token":"t"}"#] {
            assert_eq!(read(good.as_bytes()).unwrap().secret, Secret::new("t"));
        }
        for bad in ["", "{}", r#"{"token":"a\r\nb"}"#, r#"{"token":7}"#, "<html>"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        let endless = read(format!(r#"{{"token":"t","expires_in":{}}}"#, u64::MAX).as_bytes()).unwrap();
        assert!(endless.life <= Duration::from_secs(LONGEST_LIFE));
    }

    #[test]
    fn tokens_are_forgotten_when_they_run_out_or_are_too_many() {
        let tokens = Tokens::default();
        let key = |n: usize| ("r".to_owned(), n.to_string());
        let token = |seconds| read(format!(r#"{{"token":"t","expires_in":{seconds}}}"#).as_bytes()).unwrap();
        tokens.keep(key(0), token(0));
        assert_eq!(tokens.get(&key(0)), None);
        for n in 0..200 {
            tokens.keep(key(n), token(600));
        }
        assert!(tokens.get(&key(199)).is_some());
        assert_eq!(tokens.kept().len(), MAX_KEPT);
        tokens.forget(&key(199));
        assert_eq!(tokens.get(&key(199)), None);
    }
}
