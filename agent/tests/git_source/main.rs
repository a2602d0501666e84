//! The Git source against real repositories and servers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod hostile;
mod local;
mod metered;
mod parts;
mod remote;

use holdfast::clock::Clock;
use holdfast::source::{GitSource, Source};
use holdfast_core::digest::Revision;
use holdfast_core::verify::{Ancestry, Fetched, GitProof, Proof, TrustPolicy, Verified, verify};

/// What Git shows for a commit.
fn shown(fetched: &Fetched) -> &GitProof {
    match &fetched.proof {
        Proof::Git(proof) => proof,
        Proof::Artifact(_) => panic!("{fetched:?}"),
    }
}

/// How a commit stands to the accepted one.
fn ancestry(fetched: &Fetched) -> Ancestry {
    shown(fetched).ancestry.clone()
}

/// A commit of the mirror, by a box that asks for no signature.
fn trusted(source: &GitSource, revision: &Revision) -> Verified {
    verify(&source.recall(revision).unwrap(), &TrustPolicy::None, None, &Clock::new().now()).unwrap()
}
