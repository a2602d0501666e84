//! A box in a large fleet, whose server supports partial fetch: it fetches its own part and no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::boxes::{TestBox, app, of, pos};
use crate::support::git_repo::{Signer, git_in, objects};
use crate::support::middleman::{Deed, Middleman};
use crate::support::ports::free_port;
use crate::support::tools::printed;

/// A box in a fleet of others, whose apps are not placed here and whose documents are broken.
fn in_a_fleet() -> TestBox {
    let test_box = TestBox::new();
    for n in 0..30 {
        let name = format!("other-{n}");
        let files = app(&name, "1", "").into_iter().map(|(path, text)| match path.ends_with("app.yaml") {
            true => (path, text.replace("placement: {}", "placement: { matchLabels: { tier: other } }")),
            false => (path, format!("kind: [ broken {n}")),
        });
        let device = (format!("devices/shops/till-9{n}.yaml"), format!("kind: [ broken {n}"));
        let files: Vec<_> = files.chain([device]).collect();
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        test_box.repo.write(&files);
    }
    test_box
}

fn id(test_box: &TestBox, path: &str) -> String {
    test_box.repo.git(&["rev-parse", &format!("HEAD:{path}")])
}

#[test]
fn a_box_takes_its_own_part_of_a_fleet_and_goes_on_with_that_when_the_server_is_gone() {
    let test_box = in_a_fleet();
    test_box.commit(&pos("1", ""));
    let way = Middleman::start(&test_box.repo, |_, _| Deed::Pass);
    test_box.follow(&format!("url = \"{}\"", way.url()));
    let (code, status) = test_box.once();
    assert_eq!((code, &status["converged"]), (0, &json!(true)), "{status:#}");
    let commit = test_box.commit(&pos("2", ""));
    test_box.repo.push(&way.server.bare());
    way.forget();
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["applied"]), (0, &json!(commit)), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "2");
    // The commit; its top with apps; pos, with all that was changed in it.
    assert_eq!(way.asked().iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    let here = objects(&test_box.path("state/mirror"));
    for path in ["holdfast.yaml", "apps/other-7/app.yaml", "devices/shops/till-1.yaml", "apps/pos/manifests"]
    {
        assert!(here.contains(&id(&test_box, path)), "{path}");
    }
    for path in
        ["apps/other-7/manifests", "apps/other-7/manifests/other-7.yaml", "devices/shops/till-97.yaml"]
    {
        assert!(!here.contains(&id(&test_box, path)), "{path}");
    }
    // Everything that it needs is here: commands without an agent, and an agent without a server.
    way.forget();
    assert_eq!(test_box.json(&["plan"]), (0, json!({ "revision": commit, "steps": [], "held": [] })));
    assert_eq!(test_box.status()["converged"], true);
    assert_eq!(way.asked(), Vec::<Vec<String>>::new());
    drop(way);
    test_box.follow(&format!("url = \"http://127.0.0.1:{}/edge.git\"", free_port()));
    std::fs::remove_file(test_box.object("pos")).unwrap();
    let agent = test_box.start();
    let status =
        agent.wait("the app", |status| status["converged"] == true && status["source"]["error"].is_string());
    assert_eq!(
        (of(&status, "pos")["health"].as_str(), status["held"].as_array().unwrap().len()),
        (Some("Healthy"), 0)
    );
    assert_eq!(test_box.runs("pos").unwrap(), "2");
}

#[test]
fn a_network_that_is_lost_after_acceptance_leaves_the_old_state_and_is_tried_again() {
    let test_box = in_a_fleet();
    let first = test_box.commit(&pos("1", ""));
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    let way = Middleman::start(&test_box.repo, move |_, before| {
        if is_cut.load(Ordering::SeqCst) && before >= 2 { Deed::Cut } else { Deed::Pass }
    });
    test_box.follow(&format!("url = \"{}\"\ntimeout = \"5s\"", way.url()));
    let agent = test_box.start();
    agent.wait_for(&first);
    cut.store(true, Ordering::SeqCst);
    way.forget();
    let second = test_box.commit(&pos("2", ""));
    test_box.repo.push(&way.server.bare());
    agent.signal("HUP");
    let status = agent.wait("the failure", |status| !status["held"].as_array().unwrap().is_empty());
    assert_eq!(status["revision"]["accepted"], json!(second));
    assert_eq!(status["revision"]["applied"], json!(first));
    assert_eq!(
        (&status["converged"], of(&status, "pos")["health"].as_str()),
        (&json!(false), Some("Healthy"))
    );
    assert!(status["held"][0]["next"].is_string(), "{status:#}");
    assert!(status["held"][0]["cause"].as_str().unwrap().contains("could not be fetched"), "{status:#}");
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    // It asks again by itself, and not for what came.
    agent.wait("another try", |_| way.asked().len() > 5);
    let came: BTreeSet<String> = way.asked()[..2].concat().into_iter().collect();
    cut.store(false, Ordering::SeqCst);
    agent.signal("HUP");
    agent.wait_for(&second);
    assert_eq!(test_box.runs("pos").unwrap(), "2");
    let later: BTreeSet<String> = way.asked()[2..].concat().into_iter().collect();
    assert!(later.is_disjoint(&came), "{later:?}");
}

#[test]
fn a_commit_that_is_not_trusted_brings_nothing_but_itself_and_holds_back_nothing_that_is() {
    let test_box = in_a_fleet();
    test_box.commit(&pos("1", ""));
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    let work = test_box.repo.path();
    let way = Middleman::start(&test_box.repo, move |wanted, _| {
        let kind = printed(git_in(&work).args(["cat-file", "-t", &wanted[0]]));
        if is_cut.load(Ordering::SeqCst) && kind != "commit" { Deed::Cut } else { Deed::Pass }
    });
    test_box.follow(&format!("url = \"{}\"\ntimeout = \"5s\"", way.url()));
    let (code, _) = test_box.once();
    assert_eq!(code, 0);
    cut.store(true, Ordering::SeqCst);
    way.forget();
    let accepted = test_box.commit(&pos("2", ""));
    test_box.repo.push(&way.server.bare());
    let (code, status) = test_box.once();
    assert_eq!((code, &status["revision"]["accepted"]), (2, &json!(accepted)), "{status:#}");
    // Without an agent nobody is asked for the rest.
    way.forget();
    let (_, plan) = test_box.json(&["plan"]);
    assert!(plan["held"][0]["cause"].as_str().unwrap().contains("not in the mirror yet"), "{plan:#}");
    assert_eq!(way.asked(), Vec::<Vec<String>>::new());

    let agent = test_box.start();
    agent.wait("a try", |status| status["source"]["error"].is_string());
    let stranger = test_box.commit_by(&pos("3", ""), Signer::Nobody);
    test_box.repo.push(&way.server.bare());
    agent.signal("HUP");
    agent.wait("the stranger's commit", |status| status["revision"]["fetched"] == json!(stranger));
    assert_eq!(test_box.runs("pos").unwrap(), "1");
    cut.store(false, Ordering::SeqCst);
    agent.signal("HUP");
    agent.wait("the accepted one", |status| status["revision"]["applied"] == json!(accepted));
    assert_eq!(test_box.runs("pos").unwrap(), "2");
    let here = objects(&test_box.path("state/mirror"));
    assert!(here.contains(&stranger));
    assert!(!here.contains(&id(&test_box, "")), "nothing of the stranger's content");
}
