//! Docker's config.json: the users by registry. No message repeats anything of its content.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::login::Login;
use super::secret::Secret;
use crate::http::base64;

/// The largest such file.
const LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(alias = "identityToken")]
    identitytoken: Option<String>,
}

/// The login for a server that goes by one of `names`. The error is for people.
pub(super) fn read(path: &Path, names: &[&str]) -> Result<Option<Login>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LIMIT {
        return Err(format!("it has {size} bytes, more than {LIMIT}"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    parse(&text, names)
}

fn parse(text: &[u8], names: &[&str]) -> Result<Option<Login>, String> {
    // serde's own words would repeat a value, which may be the password.
    let file: File = serde_json::from_slice(text).map_err(|error| {
        let kind = if error.is_data() { "not in the format of Docker's config.json" } else { "not JSON" };
        format!("line {}, column {}: it is {kind}", error.line(), error.column())
    })?;
    let entry = names.iter().find_map(|name| file.auths.iter().find(|(key, _)| host_of(key) == *name));
    entry.map(|(key, entry)| login(entry).map_err(|why| format!("its entry {key:?} {why}"))).transpose()
}

/// Keys are hosts, or addresses such as `https://index.docker.io/v1/`.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn login(entry: &Entry) -> Result<Login, &'static str> {
    if let Some(token) = entry.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Login::Identity(Secret::new(token)));
    }
    let (user, password) = match (&entry.username, &entry.password, &entry.auth) {
        (Some(user), Some(password), _) => (user.clone(), password.clone()),
        (_, _, Some(auth)) => decoded(auth).ok_or("has an auth that is not base64 of user:password")?,
        _ => return Err("has neither auth, nor username and password, nor identitytoken"),
    };
    // A password may have line breaks: some clouds' is a whole JSON file.
    if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
        return Err("has a user that is empty, or has a colon or a control character in it");
    }
    Ok(Login::Password { user, password: Secret::new(password) })
}

fn decoded(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(base64::decode(auth.trim())?).ok()?;
    // Docker pads with zeros.
    let (user, password) = text.trim_end_matches('\0').split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: Secret::new(password) })
    }

    fn with(entry: &str) -> Result<Option<Login>, String> {
        parse(
            format!(r#"{{"auths":{{"registry.example:5000":{entry}}}}}"#).as_bytes(),
            &["registry.example:5000"],
        )
    }

    #[test]
    fn every_form_of_docker_is_read() {
        // edge:a:b
        assert_eq!(with(r#"{"auth":"ZWRnZTphOmI="}"#).unwrap(), password("edge", "a:b"));
        let plain = r#"{"username":"edge","password":"p","email":"x"}"#;
        assert_eq!(with(plain).unwrap(), password("edge", "p"));
        let identity = r#"{"auth":"ZWRnZTphOmI=","identitytoken":"t"}"#;
        assert_eq!(with(identity).unwrap(), Some(Login::Identity(Secret::new("t"))));
        assert_eq!(parse(b"{}", &["x"]).unwrap(), None);
    }

    #[test]
    fn a_registry_is_found_by_each_of_its_names_and_no_other() {
        let text = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"ZWRnZTphOmI="}},"credsStore":"x"}"#;
        assert!(parse(text, &["docker.io", "index.docker.io"]).unwrap().is_some());
        for other in ["docker.io", "index.docker.io:443", "index.docker.io.example"] {
            assert!(parse(text, &[other]).unwrap().is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for entry in [
            r#"{"auth":"hunter2!"}"#,
            r#"{"auth":["hunter2"]}"#,
            r#"{"username":"a:hunter2","password":"hunter2"}"#,
            r#"{"username":"hunter2\n","password":"x"}"#,
            r#"{"password":"hunter2"}"#,
            r#"{"password":"hunter2"#,
        ] {
            let error = with(entry).unwrap_err();
            assert!(!error.contains("hunter2") && !error.is_empty(), "{error}");
        }
    }
}
