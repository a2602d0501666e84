//! A repository on a server, asked in version 2 of Git's protocol (git's Documentation/gitprotocol-v2).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gix::ObjectId;
use gix::bstr::BString;
use gix::progress::Discard;
use gix::protocol::Handshake;
use gix::protocol::LsRefsCommand;
use gix::protocol::fetch::Response;
use gix::protocol::fetch::response::Acknowledgement;
use gix::protocol::handshake::Ref;
use gix::protocol::ls_refs::RefPrefixes;
use gix_transport::client::blocking_io::{ExtendedBufRead, TransportV2Ext as _, http::Transport};
use gix_transport::{Protocol, Service};
use holdfast_core::verify::Ancestry;

use super::config::{Reference, SourceConfig, described, full_name};
use super::error::{SourceError, in_full};
use super::http::{Advertisement, Client, GitHttp, Meter, old_protocol};
use super::local::walk_back;
use super::mirror::Mirror;
use crate::http::url::shown as shown_url;

/// What we call ourselves towards Git.
const AGENT: &str = concat!("holdfast/", env!("CARGO_PKG_VERSION"));

/// So many revisions are named as present: the newest tells the server nearly everything.
const MAX_HAVES: usize = 4;

/// The server.
pub(crate) struct Remote {
    config: SourceConfig,
    client: Option<Client>,
    remembered: Arc<Mutex<Option<Advertisement>>>,
}

/// One operation: the transport and what the server can do.
struct Session {
    transport: Transport<GitHttp>,
    handshake: Handshake,
    meter: Arc<Meter>,
}

impl Remote {
    pub(crate) fn new(config: &SourceConfig) -> Result<Self, SourceError> {
        Client::check(config)?;
        Ok(Remote { config: config.clone(), client: None, remembered: Arc::default() })
    }

    /// Runs one operation. After a failure the client and what is remembered of the server go: certificates
    /// and proxies may have changed, and so may the server.
    fn operate<T>(
        &mut self,
        total: Duration,
        limit: u64,
        work: impl FnOnce(&mut Session) -> gix::error::Result<Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let meter = Meter::new(
            &shown_url(&self.config.url),
            total,
            self.config.timeout.min(total),
            self.config.limits.slowest,
            limit,
        );
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
            None => self.client.insert(Client::new(&self.config)?).clone(),
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
        Ok(Session { transport, handshake, meter })
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
        self.operate(self.config.timeout, limits.talk, |session| {
            let mut prefixes = RefPrefixes::new();
            prefixes.extend([BString::from(name.as_str())]);
            let command = LsRefsCommand::new(Some(prefixes), &session.handshake.capabilities, agent());
            let refs = command.invoke_blocking(&mut session.transport, &mut Discard, false)?;
            Ok(refs.iter().find_map(|found| pointed_at(found, &name)).ok_or(missing))
        })
    }

    /// Brings what the mirror lacks of the commit `id`, without its history.
    pub(crate) fn fetch(&mut self, id: &ObjectId, mirror: &Mirror) -> Result<(), SourceError> {
        let haves: Vec<ObjectId> = mirror.complete()?.into_iter().take(MAX_HAVES).collect();
        let limits = self.config.limits;
        self.operate(limits.fetch, limits.pack, |session| {
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
                    Some(pack) => mirror.ingest(pack, &AtomicBool::new(false)),
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

    /// Finds out whether `accepted` is an ancestor of `id`: by the commits between them, without their trees
    /// where the server can leave those out.
    pub(crate) fn descent(
        &mut self,
        id: &ObjectId,
        accepted: &ObjectId,
        mirror: &Mirror,
    ) -> Result<Ancestry, SourceError> {
        let found = match self.between(id, accepted, mirror, false) {
            Ok(Some(ancestry)) => Ok(ancestry),
            Ok(None) => {
                self.between(id, accepted, mirror, true).map(|found| found.unwrap_or(Ancestry::Foreign))
            }
            Err(error) => Err(error),
        };
        match found {
            Err(SourceError::TooLarge { limit, .. }) => Ok(Ancestry::Unproven {
                why: format!("the history between them is larger than {limit} bytes"),
            }),
            found => found,
        }
    }

    /// Asks for the commits that lead from `accepted` to `id`. Without `insist` the server may answer that it
    /// found no way (`None`).
    fn between(
        &mut self,
        id: &ObjectId,
        accepted: &ObjectId,
        mirror: &Mirror,
        insist: bool,
    ) -> Result<Option<Ancestry>, SourceError> {
        let limits = self.config.limits;
        self.operate(limits.fetch, limits.talk, |session| {
            let mut arguments = vec!["ofs-delta".to_owned(), "no-progress".to_owned()];
            if session.can("filter") {
                arguments.push("filter tree:0".to_owned());
            }
            // We may not have the accepted commit's ancestors, but say nothing of that: so the server sends
            // the commits between the two, and none behind the accepted one.
            arguments.push(format!("want {id}"));
            arguments.push(format!("have {accepted}"));
            if insist {
                arguments.push("done".to_owned());
            }
            session.ask(arguments, |response, pack| match pack {
                Some(pack) => mirror
                    .inspect(pack, |objects| {
                        walk_back(id, accepted, limits.commits, |commit| {
                            // What isn't sent lies behind the accepted commit, so it leads nowhere new.
                            Some(match objects.exists(commit) {
                                true => objects.commit(commit).map(|c| c.parents).map_err(|d| d.to_string()),
                                false => Ok(Vec::new()),
                            })
                        })
                    })
                    .map(Some),
                None => {
                    let known = response
                        .acknowledgements()
                        .iter()
                        .any(|ack| matches!(ack, Acknowledgement::Common(_) | Acknowledgement::Ready));
                    // Unknown to a server that knows all ancestors of `id`: it is none of them.
                    Ok((!known).then_some(Ancestry::Foreign))
                }
            })
        })
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
