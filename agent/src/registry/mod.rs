//! Registries: images by OCI's distribution-spec, brought to the box's own disk.
//!
//! ```text
//! Images      what a driver uses: resolve, fetch_all, and the files on disk
//!   Pull      one image: every server that may have it, mirrors first, asked in rounds until one gives it
//!     Connection   one server: its trust, its login, its redirects
//!     blob         one layer, gone on with where it broke off
//! ```
//!
//! Everything here blocks, and ends within its [`Limits`] whatever a server does. What comes is only ever
//! believed by its digest.

mod auth_file;
mod blob;
mod challenge;
mod connection;
mod error;
mod images;
mod limits;
mod login;
mod manifest;
mod pull;
mod secret;
mod server;
mod token;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::error::{Reason, RegistryError, Tried};
pub use self::images::{Blob, Images, OnDisk};
pub use self::limits::Limits;
pub use self::manifest::Resolved;

use holdfast_core::image::{ImageReference, Platform};
use holdfast_core::oci::Descriptor;
use holdfast_store::content::Content;

use self::pull::Pull;
use self::server::servers;
use self::token::Tokens;
use crate::config;
use crate::http::allowance::Allowance;

/// Whoever resolves waits with a whole revision, and tries again by itself.
const RESOLVE_ROUNDS: u32 = 2;

/// The registries that the box knows, and how it asks them. Nobody is asked before something is wanted, and no
/// connection is kept afterwards.
#[derive(Debug)]
pub struct Registries {
    sections: BTreeMap<String, config::Registry>,
    limits: Limits,
    tokens: Tokens,
    allowance: Allowance,
}

impl Registries {
    /// As agent.toml's `[registries]` says. One that isn't there is asked over https, by nobody in particular.
    pub fn new(sections: &BTreeMap<String, config::Registry>) -> Self {
        Registries::with_limits(sections, Limits::default())
    }

    /// The same, with other limits.
    pub fn with_limits(sections: &BTreeMap<String, config::Registry>, limits: Limits) -> Self {
        Registries {
            sections: sections.clone(),
            limits,
            tokens: Tokens::default(),
            allowance: Allowance::unlimited(),
        }
    }

    /// The same, under what all downloads of the box may use together.
    pub fn within(self, allowance: Allowance) -> Self {
        Registries { allowance, ..self }
    }

    /// What `image` is now, on `platform`: the manifest with its digest.
    ///
    /// # Errors
    /// [`RegistryError`]; which server was asked and what it said.
    pub fn resolve(&self, image: &ImageReference, platform: &Platform) -> Result<Resolved, RegistryError> {
        let mut pull = self.short_pull(image);
        manifest::resolve(&mut pull, platform, None)
    }

    /// Brings one blob of `image` into `content`. What an earlier call left of it is gone on with.
    ///
    /// # Errors
    /// [`RegistryError`]; what came so far stays for the next call.
    pub fn fetch(
        &self,
        image: &ImageReference,
        blob: &Descriptor,
        content: &Content,
    ) -> Result<(), RegistryError> {
        self.pull(image, self.limits, self.limits.pull).blob(blob, content)
    }

    /// A pull of documents alone.
    fn short_pull<'a>(&'a self, image: &'a ImageReference) -> Pull<'a> {
        let limits = Limits { rounds: self.limits.rounds.min(RESOLVE_ROUNDS), ..self.limits };
        self.pull(image, limits, limits.resolve)
    }

    /// One operation on `image` that may take `total`.
    fn pull<'a>(&'a self, image: &'a ImageReference, limits: Limits, total: Duration) -> Pull<'a> {
        let servers = servers(&self.sections, &image.registry);
        Pull::new(image, servers, &self.tokens, limits, total, self.allowance.line())
    }
}
