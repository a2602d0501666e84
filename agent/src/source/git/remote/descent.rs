//! Whether one commit descends from another: asked of the server, proved by the ids of the commits between.

use gix::ObjectId;
use gix::protocol::fetch::response::Acknowledgement;
use holdfast_core::verify::Ancestry;

use super::{Refused, Remote};
use crate::http::allowance::Purpose;
use crate::source::error::SourceError;
use crate::source::git::local::walk_back;
use crate::source::git::mirror::{Bounds, Mirror};

impl Remote {
    /// Finds out whether `accepted` is an ancestor of `id`: by the commits between them, without their trees
    /// where the server can leave those out.
    pub(crate) fn descent(
        &mut self,
        id: &ObjectId,
        accepted: &ObjectId,
        mirror: &Mirror,
    ) -> Result<Ancestry, SourceError> {
        self.line.documents_of(&id.to_string());
        let found = match self.between(id, accepted, mirror, false) {
            Ok(Some(ancestry)) => Ok(ancestry),
            Ok(None) => {
                self.between(id, accepted, mirror, true).map(|found| found.unwrap_or(Ancestry::Foreign))
            }
            Err(error) => Err(error),
        };
        match found {
            Err(SourceError::TooLarge { what, limit }) => Ok(Ancestry::Unproven {
                why: format!(
                    "the history between them is too large: {what} is larger than the limit of {limit}"
                ),
            }),
            Err(SourceError::OverBudget { room }) => Ok(Ancestry::Unproven {
                why: format!(
                    "the history between them is larger than the {room} bytes that the disk budget leaves"
                ),
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
        let (limits, refused) = (self.config.limits, self.refused);
        self.operate(Purpose::Documents, limits.fetch, limits.talk, |session| {
            let mut arguments = vec!["ofs-delta".to_owned(), "no-progress".to_owned()];
            let mut bounds = Bounds::up_to(limits.object);
            if session.can("filter") && refused < Refused::Filter {
                arguments.push("filter tree:0".to_owned());
                bounds = Bounds::COMMITS;
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
                    .inspect(pack, bounds, |objects| {
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
