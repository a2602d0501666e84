//! The way to one server, for one operation: its trust, its login, where its redirects lead.

use std::io::Read;
use std::time::Instant;

use ureq::Body;
use ureq::http::{Response, header};

use super::challenge::{self, Challenge};
use super::error::Reason;
use super::limits::{Deadline, Limits};
use super::login::{Login, NoLogin, advice};
use super::secret::Secret;
use super::server::Server;
use super::token::{self, Key, Tokens};
use crate::http::allowance::Line;
use crate::http::url::{authority, same_origin};
use crate::http::{self, Headers, Pace, Roots, Waits, explain, explain_body};

/// How many redirects are followed in a row.
const MAX_REDIRECTS: usize = 5;

/// One server, and what is known of it in this operation.
pub(super) struct Connection<'a> {
    pub(super) server: Server,
    /// For the server itself, which its `ca_file` alone proves.
    own: http::Client,
    /// For where it leads: blob stores and token servers are others' as often as not.
    other: Option<http::Client>,
    tokens: &'a Tokens,
    key: Key,
    authorization: Option<Secret>,
    deadline: Deadline,
    slowest: u64,
    /// Set once it answered a range wrongly.
    pub(super) is_without_ranges: bool,
}

impl<'a> Connection<'a> {
    /// Prepares to ask `server` for things of `repository`. Certificates are read now.
    pub(super) fn new(
        server: Server,
        repository: &str,
        tokens: &'a Tokens,
        deadline: Deadline,
        limits: &Limits,
    ) -> Result<Self, Reason> {
        let own = client(&server, false, deadline.line())?;
        let key = (server.name.clone(), format!("repository:{repository}:pull"));
        let authorization = tokens.get(&key).map(|token| bearer(&token));
        Ok(Connection {
            server,
            own,
            other: None,
            tokens,
            key,
            authorization,
            deadline,
            slowest: limits.slowest,
            is_without_ranges: false,
        })
    }

    /// Asks for `path`, follows redirects, and logs in if that is wanted. Gives an answer whose status is one
    /// of `wanted`.
    pub(super) fn get(
        &mut self,
        path: &str,
        headers: &Headers,
        wanted: &[u16],
    ) -> Result<Response<Body>, Reason> {
        let start = format!("{}{path}", self.server.base);
        let mut asked_again = false;
        let mut url = start.clone();
        let mut redirects = 0;
        loop {
            let response = self.send(&url, headers)?;
            let status = response.status().as_u16();
            if let Some(location) = http::location(&response) {
                redirects += 1;
                url = follow(&url, &location, redirects)?;
            } else if wanted.contains(&status) {
                return Ok(response);
            } else if status == 401 && !asked_again && same_origin(&url, &self.server.base) {
                self.log_in(&response)?;
                asked_again = true;
                (url, redirects) = (start.clone(), 0);
            } else {
                return Err(self.refusal(&url, &response));
            }
        }
    }

    /// Sends one request. Who asks is told to nobody but the server itself.
    fn send(&mut self, url: &str, headers: &Headers) -> Result<Response<Body>, Reason> {
        self.deadline.is_over().map_err(|why| Reason::TimedOut { why })?;
        let waits = self.waits();
        if !same_origin(url, &self.server.base) {
            let sent = http::send(self.other()?, url, headers, None, &waits);
            return sent.map_err(|error| elsewhere(url, explain(&error, &waits).into()));
        }
        let mut headers = headers.clone();
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization".to_owned(), authorization.reveal().to_owned()));
        }
        http::send(&self.own, url, &headers, None, &waits).map_err(|error| explain(&error, &waits).into())
    }

    fn other(&mut self) -> Result<&http::Client, Reason> {
        let made = match self.other.take() {
            Some(agent) => agent,
            None => client(&self.server, true, self.deadline.line())?,
        };
        Ok(self.other.insert(made))
    }

    pub(super) fn waits(&self) -> Waits {
        self.deadline.waits()
    }

    /// Does what a 401 asks for.
    fn log_in(&mut self, response: &Response<Body>) -> Result<(), Reason> {
        let offered: Vec<Challenge> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let login = self.server.login().map_err(Reason::Local)?;
        let bearer_first = offered.iter().find(|offer| matches!(offer, Challenge::Bearer { .. }));
        match bearer_first.or(offered.first()) {
            Some(Challenge::Bearer { realm, service }) => self.fetch_token(realm, service.as_deref(), &login),
            Some(Challenge::Basic) => match login.as_ref().ok().and_then(Login::basic) {
                Some(basic) => {
                    self.authorization = Some(basic);
                    Ok(())
                }
                None => Err(self.unknown(&login, "HTTP status 401")),
            },
            None => Err(self.unknown(&login, "HTTP status 401, without saying how to log in")),
        }
    }

    fn fetch_token(
        &mut self,
        realm: &str,
        service: Option<&str>,
        login: &Result<Login, NoLogin>,
    ) -> Result<(), Reason> {
        self.tokens.forget(&self.key);
        let request = token::request(&self.server, realm, service, &self.key.1, login.as_ref().ok())?;
        let waits = self.waits();
        let mut headers: Headers = vec![("accept".to_owned(), "application/json".to_owned())];
        if let Some(authorization) = &request.authorization {
            headers.push(("authorization".to_owned(), authorization.reveal().to_owned()));
        }
        let form = request.form.as_ref().map(|form| form.reveal().as_bytes());
        if form.is_some() {
            headers.push(("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned()));
        }
        let sent = http::send(self.other()?, &request.url, &headers, form, &waits);
        let response = sent.map_err(|error| elsewhere(realm, explain(&error, &waits).into()))?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(self.unknown(login, &at(realm, &response))),
            _ => return Err(refused(realm, &response, true)),
        }
        let token = token::read(&self.read_all(response, token::MAX_ANSWER)?)?;
        self.authorization = Some(bearer(&token.secret));
        self.tokens.keep(self.key.clone(), token);
        Ok(())
    }

    fn unknown(&self, login: &Result<Login, NoLogin>, said: &str) -> Reason {
        Reason::Refused { why: advice(&self.server.name, login, said) }
    }

    /// What a status means that wasn't wanted.
    fn refusal(&self, url: &str, response: &Response<Body>) -> Reason {
        let own = same_origin(url, &self.server.base);
        match (response.status().as_u16(), self.server.login()) {
            (401 | 403, Ok(login)) if own => {
                self.tokens.forget(&self.key);
                self.unknown(&login, &format!("HTTP status {}", response.status()))
            }
            (401 | 403, Err(why)) => Reason::Local(why),
            _ => refused(url, response, !own),
        }
    }

    /// A body of at most `limit` bytes.
    pub(super) fn read_all(&self, response: Response<Body>, limit: usize) -> Result<Vec<u8>, Reason> {
        let mut bytes = Vec::new();
        let mut incoming = self.incoming(response);
        let mut chunk = vec![0; 16 << 10];
        loop {
            let count = incoming.read(&mut chunk)?;
            if count == 0 {
                return Ok(bytes);
            }
            if bytes.len() + count > limit {
                return Err(Reason::WrongSize {
                    why: format!("more than {limit} bytes, which is the limit"),
                });
            }
            bytes.extend_from_slice(&chunk[..count]);
        }
    }

    /// A body, read under the limits.
    pub(super) fn incoming(&self, response: Response<Body>) -> Incoming {
        Incoming {
            reader: response.into_body().into_reader(),
            deadline: self.deadline.clone(),
            pace: Pace::new(self.deadline.waits().patience, self.slowest),
        }
    }
}

/// A body that is coming.
pub(super) struct Incoming {
    reader: ureq::BodyReader<'static>,
    deadline: Deadline,
    pace: Pace,
}

impl Incoming {
    /// Reads some; nothing is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reason> {
        self.deadline.line().wait();
        let began = Instant::now();
        let count = self
            .reader
            .read(buffer)
            .map_err(|error| Reason::from(explain_body(&error, &self.deadline.waits())))?;
        if count > 0 {
            let paced = self.pace.book(began.elapsed(), count).and_then(|()| self.deadline.is_over());
            paced.map_err(|why| Reason::TimedOut { why })?;
        }
        Ok(count)
    }
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

/// A client that trusts what proves `server`, and with `others` the system's roots too.
fn client(server: &Server, others: bool, line: &Line) -> Result<http::Client, Reason> {
    let proxy = http::require_http_proxy(http::proxy_of_environment());
    let proxy = proxy.map_err(|why| Reason::Local(format!("the proxy of the environment {why}")))?;
    let roots = match &server.ca_file {
        Some(path) => {
            let own = Roots::of_file(path).map_err(|why| {
                let path = path.display();
                Reason::Local(format!(
                    "ca_file {path} of [registries.\"{}\"] cannot be used: {why}",
                    server.name
                ))
            })?;
            if others { own.and(Roots::of_system()) } else { own }
        }
        None if server.is_plain() && !others => return Ok(http::client(None, proxy, line)),
        None => Roots::of_system(),
    };
    if roots.is_empty() && !server.is_plain() {
        return Err(Reason::Local(format!(
            "this system has no certificates to check servers with: install its CA bundle (ca-certificates), or \
             set ca_file in [registries.\"{}\"]",
            server.name
        )));
    }
    Ok(http::client(Some(&roots), proxy, line))
}

/// Where a redirect of `url` leads.
fn follow(url: &str, location: &str, redirects: usize) -> Result<String, Reason> {
    let refuse = |why: &str| Reason::Protocol { why: format!("it redirects {why}") };
    if redirects > MAX_REDIRECTS {
        return Err(refuse("too many times"));
    }
    let (scheme, _) = url.split_once("://").unwrap_or(("https", ""));
    let target = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", authority(url))
    } else {
        let folder = url.split(['?', '#']).next().and_then(|url| url.rsplit_once('/'));
        format!("{}/{location}", folder.map_or(url, |(folder, _)| folder))
    };
    let clear = target.starts_with("http://") && url.starts_with("http://");
    if !target.starts_with("https://") && !clear {
        return Err(refuse("to an address that is not https"));
    }
    match authority(&target) {
        host if host.is_empty() || host.contains('@') => Err(refuse("to an invalid address")),
        _ => Ok(target),
    }
}

/// The same reason, but it was another server than the one that was asked first.
fn elsewhere(url: &str, reason: Reason) -> Reason {
    let add = |why: String| format!("{why} (at {}, to which it redirects)", authority(url));
    match reason {
        Reason::Unreachable { why } => Reason::Unreachable { why: add(why) },
        Reason::TimedOut { why } => Reason::TimedOut { why: add(why) },
        Reason::Untrusted { why } => Reason::Untrusted { why: add(why) },
        Reason::Protocol { why } => Reason::Protocol { why: add(why) },
        other => other,
    }
}

fn at(url: &str, response: &Response<Body>) -> String {
    format!("HTTP status {} at {}", response.status(), authority(url))
}

/// What a status means, whoever sent it.
fn refused(url: &str, response: &Response<Body>, elsewhere: bool) -> Reason {
    let why = match elsewhere {
        true => format!("{}, to which it redirects", at(url, response)),
        false => format!("HTTP status {}", response.status()),
    };
    match response.status().as_u16() {
        404 | 410 => Reason::NotFound { why },
        401 | 403 => Reason::Refused { why },
        407 => Reason::Unreachable { why: "the proxy requires authentication".to_owned() },
        408 | 425 | 429 | 500..=599 => Reason::Busy { why, retry_after: http::retry_after(response) },
        _ => Reason::Protocol { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_web_and_never_out_of_https() {
        let from = "https://r.example/v2/a/blobs/x?y=1";
        for (location, target) in [
            ("https://s3.example/b?sig=1", "https://s3.example/b?sig=1"),
            ("//s3.example/b", "https://s3.example/b"),
            ("/b", "https://r.example/b"),
            ("b", "https://r.example/v2/a/blobs/b"),
        ] {
            assert_eq!(follow(from, location, 1).unwrap(), target);
        }
        for location in ["http://r.example/b", "file:///etc/passwd", "https://u@r.example/", "https:///x"] {
            assert!(follow(from, location, 1).is_err(), "{location}");
        }
        assert!(follow("http://r.example/a", "http://s3.example/b", 1).is_ok());
        assert!(follow(from, "/b", MAX_REDIRECTS + 1).unwrap_err().to_string().contains("too many times"));
    }
}
