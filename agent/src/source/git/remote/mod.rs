//! A repository on a server, asked in version 2 of Git's protocol (git's Documentation/gitprotocol-v2).
//! `parts` asks for single objects, `below` for what changed below folders, `descent` for the commits that lead from one to
//! another; here is what they build on, and the way to a whole commit for a server that can't leave anything out.

mod below;
mod descent;
mod parts;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gix::ObjectId;
use gix::bstr::BString;
use gix::progress::Discard;
use gix::protocol::Handshake;
use gix::protocol::LsRefsCommand;
use gix::protocol::fetch::Response;
use gix::protocol::handshake::Ref;
use gix::protocol::ls_refs::RefPrefixes;
use gix_transport::client::blocking_io::{ExtendedBufRead, TransportV2Ext as _, http::Transport};
use gix_transport::{Protocol, Service};

pub(crate) use self::parts::Extent;
use crate::http::allowance::{Line, Purpose};
use crate::http::url::shown as shown_url;
use crate::source::error::SourceError;
use crate::source::git::config::{GitConfig, Reference, described, full_name};
use crate::source::git::http::{Advertisement, Client, GitHttp, Meter, old_protocol};
use crate::source::git::in_full;
use crate::source::git::mirror::{MAX_COMMIT, Mirror};

/// What we call ourselves towards Git.
const AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

/// Bytes of a poll, and of a single commit: one reference is asked for, and what a server lists beside it is held in
/// memory; a commit is never larger than a quarter of this.
const MAX_TALK: u64 = 4 * MAX_COMMIT;

/// So many revisions are named as present: the newest tells the server nearly everything.
const MAX_HAVES: usize = 4;

/// The server.
pub(crate) struct Remote {
    config: GitConfig,
    client: Option<Client>,
    remembered: Arc<Mutex<Option<Advertisement>>>,
    refused: Refused,
    /// The topmost folders couldn't be had as changes, and aren't asked for like that again.
    no_changes: bool,
    /// Folders couldn't be had with what changed below them, and aren't asked for like that again.
    nothing_below: bool,
    /// The commit of which that was asked for and didn't come.
    failed_below: Option<ObjectId>,
    line: Line,
    /// What files needed at least that didn't come within the budget, in bytes.
    too_large: BTreeMap<ObjectId, u64>,
}

/// What the server offered and then refused, remembered until the agent is started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refused {
    Nothing,
    /// To send trees and files that are asked for by their ids.
    Ids,
    /// To leave anything out.
    Filter,
}

/// One operation: the transport and what the server can do.
struct Session {
    transport: Transport<GitHttp>,
    handshake: Handshake,
    meter: Arc<Meter>,
    /// What the server said when it refused the last request.
    refusal: Option<String>,
}

impl Remote {
    pub(crate) fn new(config: &GitConfig, line: Line) -> Result<Self, SourceError> {
        Client::check(config)?;
        Ok(Remote {
            config: config.clone(),
            client: None,
            remembered: Arc::default(),
            refused: Refused::Nothing,
            no_changes: false,
            nothing_below: false,
            failed_below: None,
            line,
            too_large: BTreeMap::new(),
        })
    }

    /// Runs one operation that may take `total` in all and receive `limit` bytes.
    fn operate<T>(
        &mut self,
        purpose: Purpose,
        total: Duration,
        limit: u64,
        work: impl FnOnce(&mut Session) -> gix::error::Result<Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let meter = self.meter(total, limit);
        self.operate_within(&meter, purpose, work)
    }

    fn meter(&self, total: Duration, limit: u64) -> Arc<Meter> {
        let patience = self.config.timeout.min(total);
        Meter::new(
            &shown_url(&self.config.url),
            total,
            patience,
            self.config.limits.slowest,
            limit,
            self.line.clone(),
        )
    }

    /// Runs one operation on an account that others may have used before. After a failure the client and what
    /// is remembered of the server go: certificates and proxies may have changed, and so may the server.
    fn operate_within<T>(
        &mut self,
        meter: &Arc<Meter>,
        purpose: Purpose,
        work: impl FnOnce(&mut Session) -> gix::error::Result<Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        // Before anybody is asked. As long as this lives, the download runs.
        let _transfer = self
            .line
            .begin(purpose)
            .map_err(|cause| SourceError::UsedUp { url: shown_url(&self.config.url), cause })?;
        let done = self.session(meter.clone()).and_then(|mut session| match work(&mut session) {
            Ok(done) => done,
            Err(error) => Err(self.explain(&error)),
        });
        done.map_err(|error| {
            self.client = None;
            *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = None;
            match meter.failure().unwrap_or(error) {
                SourceError::Protocol { url, why } if url.is_empty() => {
                    SourceError::Protocol { url: shown_url(&self.config.url), why }
                }
                error => error,
            }
        })
    }

    fn session(&mut self, meter: Arc<Meter>) -> Result<Session, SourceError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(Client::new(&self.config, &self.line)?).clone(),
        };
        let base = self.config.url.trim_end_matches('/');
        let url = gix::Url::try_from(base)
            .map_err(|error| SourceError::Config(format!("source.url cannot be read: {error}")))?;
        let http = GitHttp::new(client, meter.clone(), self.remembered.clone());
        let mut transport = Transport::new_http(http, url, Protocol::V2, false);
        let handshake = gix::protocol::handshake(
            &mut transport,
            Service::UploadPack,
            |_| Ok(None),
            Vec::new(),
            &mut Discard,
        )
        .map_err(|error| self.explain(&error))?;
        if handshake.server_protocol_version != Protocol::V2 {
            return Err(old_protocol(&self.config.url));
        }
        Ok(Session { transport, handshake, meter, refusal: None })
    }

    fn explain(&self, error: &gix::Error) -> SourceError {
        SourceError::Protocol { url: shown_url(&self.config.url), why: in_full(error) }
    }

    /// The commit that `reference` points at now.
    pub(crate) fn tip(&mut self, reference: &Reference) -> Result<ObjectId, SourceError> {
        let name = full_name(reference).unwrap_or_default();
        let missing = SourceError::NotFound {
            what: format!("{} of {}", described(reference), shown_url(&self.config.url)),
        };
        let limits = self.config.limits;
        self.operate(Purpose::Poll, self.config.timeout, limits.talk.min(MAX_TALK), |session| {
            let mut prefixes = RefPrefixes::new();
            prefixes.extend([BString::from(name.as_str())]);
            let command = LsRefsCommand::new(Some(prefixes), &session.handshake.capabilities, agent());
            let refs = command.invoke_blocking(&mut session.transport, &mut Discard, false)?;
            Ok(refs.iter().find_map(|found| pointed_at(found, &name)).ok_or(missing))
        })
    }

    /// Brings what the mirror lacks of the commit `id` and its whole tree, without its history. Where changes of large files
    /// take too much memory to be put together, the files come whole.
    fn fetch_whole(&mut self, id: &ObjectId, mirror: &Mirror, purpose: Purpose) -> Result<(), SourceError> {
        let haves: Vec<ObjectId> = mirror.complete()?.into_iter().take(MAX_HAVES).collect();
        match self.fetch_on_top(id, &haves, mirror, purpose) {
            Err(SourceError::TooLarge { .. }) if mirror.had_too_much() && !haves.is_empty() => {
                self.fetch_on_top(id, &[], mirror, purpose)
            }
            done => done,
        }
    }

    fn fetch_on_top(
        &mut self,
        id: &ObjectId,
        haves: &[ObjectId],
        mirror: &Mirror,
        purpose: Purpose,
    ) -> Result<(), SourceError> {
        let limits = self.config.limits;
        self.operate(purpose, limits.fetch, limits.pack, |session| {
            let mut arguments = vec!["ofs-delta".to_owned(), "no-progress".to_owned()];
            if session.can("shallow") {
                arguments.push("thin-pack".to_owned());
                // They are shallow here: the server must not count on what lies behind them.
                arguments.extend(haves.iter().map(|id| format!("shallow {id}")));
                arguments.push("deepen 1".to_owned());
                arguments.extend(haves.iter().map(|id| format!("have {id}")));
            }
            arguments.push(format!("want {id}"));
            arguments.push("done".to_owned());
            let meter = session.meter.clone();
            session
                .ask(arguments, |response, pack| match pack {
                    Some(pack) => mirror.ingest(pack),
                    None => Err(SourceError::Protocol {
                        url: String::new(),
                        why: format!(
                            "it sent no pack ({} acknowledgements)",
                            response.acknowledgements().len()
                        ),
                    }),
                })
                .map(|done| done.map_err(|error| meter.failure().unwrap_or(error)))
        })
        .map_err(|error| self.not_ours(error, id))
    }

    /// A server says in its own words that it hasn't got a commit.
    fn not_ours(&self, error: SourceError, id: &ObjectId) -> SourceError {
        match error {
            SourceError::Protocol { why, .. } if why.contains("not our ref") => {
                SourceError::NotFound { what: format!("commit {id} in {}", shown_url(&self.config.url)) }
            }
            other => other,
        }
    }
}

impl Session {
    /// Whether the server's `fetch` has a feature.
    fn can(&self, feature: &str) -> bool {
        self.handshake
            .capabilities
            .capability("fetch")
            .and_then(|fetch| fetch.supports(feature))
            .unwrap_or_default()
    }

    /// Sends a `fetch` and hands on its answer.
    fn ask<T>(
        &mut self,
        arguments: Vec<String>,
        take: impl FnOnce(&Response, Option<&mut dyn std::io::BufRead>) -> Result<T, SourceError>,
    ) -> gix::error::Result<Result<T, SourceError>> {
        let mut features = vec![agent()];
        let format = self.handshake.capabilities.capability("object-format").and_then(|found| found.value());
        if let Some(format) = format {
            features.push(("object-format", Some(format.to_string())));
        }
        let arguments = arguments.into_iter().map(BString::from);
        let mut reader = self
            .transport
            .invoke("fetch", features.into_iter(), Some(arguments), false)
            .map_err(gix::error::ErrorExt::raise)?;
        match reader.peek_data_line() {
            Some(Ok(Ok(line))) if line.starts_with(b"ERR ") => {
                let said = String::from_utf8_lossy(&line[4..]).trim().chars().take(300).collect::<String>();
                let why = format!("it refuses: {said}");
                self.refusal = Some(said);
                return Ok(Err(SourceError::Protocol { url: String::new(), why }));
            }
            Some(Err(error)) => {
                return Ok(Err(SourceError::Protocol { url: String::new(), why: error.to_string() }));
            }
            _ => {}
        }
        let response = Response::from_line_reader(Protocol::V2, &mut reader, true, true)?;
        if !response.has_pack() {
            return Ok(take(&response, None));
        }
        // From here on the pack comes in a side band; messages of the server are not of interest.
        reader.set_progress_handler(Some(Box::new(|_, _| std::ops::ControlFlow::Continue(()))));
        Ok(take(&response, Some(&mut reader)))
    }
}

fn agent() -> gix::protocol::command::Feature {
    ("agent", Some(AGENT.into()))
}

/// The commit that a reference of the server points at, if it is the one called `name`.
fn pointed_at(found: &Ref, name: &str) -> Option<ObjectId> {
    match found {
        Ref::Peeled { full_ref_name, object, .. }
        | Ref::Direct { full_ref_name, object }
        | Ref::Symbolic { full_ref_name, object, .. }
            if full_ref_name == name =>
        {
            Some(*object)
        }
        _ => None,
    }
}
