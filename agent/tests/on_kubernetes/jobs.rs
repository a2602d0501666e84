//! Jobs: they run to their end, once.

use std::thread;
use std::time::Duration;

use crate::cluster_box::{ClusterBox, config_map};
use crate::pods::{node, runs};

/// Long enough for a watch to tell of whatever there is to tell.
const A_WHILE: Duration = Duration::from_secs(2);

/// A Job with one pod that runs this; `more` stands in its spec.
fn job(name: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: {name} }}\nspec:\n  backoffLimit: 0\n{more}  template:\n    \
         spec: {{ restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [ {} ] }}\n---\n",
        runs("c", script, "")
    )
}

#[test]
fn a_job_is_good_once_it_is_complete_and_one_that_fails_fails_its_release() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "job");
    shop.write("", &job("once", "exit 0", ""));
    shop.start(&[]);
    shop.converge();
    shop.write("", &job("twice", "exit 1", ""));
    shop.push();
    shop.wait_app("rolled back", |app| app.phase == "RolledBack");
    assert!(shop.find("jobs/twice").is_none());
}

#[test]
fn a_job_that_the_cluster_removes_when_it_has_ended_does_not_run_again() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "ended");
    let manifests = |word: &str, after: u8| {
        let ttl = format!("  ttlSecondsAfterFinished: {after}\n");
        config_map("config", "1") + &job("import", &format!("echo {word}"), &ttl)
    };
    let times_made = |shop: &ClusterBox<'_>| {
        let asked = shop.requests();
        let writes = asked.iter().filter(|one| one.writes() && one.uri.contains("/jobs/import"));
        writes.filter(|one| one.code == 201).count()
    };
    let path = shop.path("jobs/import");
    // One that is gone at once, and one that the agent can still look at.
    for (round, (word, after)) in [("first", 0), ("second", 1)].into_iter().enumerate() {
        shop.write("", &manifests(word, after));
        if round == 0 {
            shop.start(&[]);
        }
        shop.converge();
        shop.wait_until("without its Job", |_, status| status.converged && node.find(&path).is_none());
        thread::sleep(A_WHILE);
        assert!(shop.find("jobs/import").is_none(), "it was made again");
        assert_eq!(times_made(&shop), round + 1);

        // A restarted agent finds it written down.
        shop.kill();
        shop.start(&[]);
        shop.repo.write(&[("README.md", word)]);
        shop.converge();
        thread::sleep(A_WHILE);
        assert_eq!(times_made(&shop), round + 1);
    }
}

#[test]
fn an_agent_that_was_started_anew_knows_of_a_job_whether_it_has_ended() {
    let Some(node) = node() else { return };
    let mut shop = ClusterBox::new(&node, "anew");
    let ended = config_map("config", "1") + &job("import", "exit 0", "  ttlSecondsAfterFinished: 3600\n");
    shop.write("", &ended);
    shop.start(&[]);
    shop.converge();
    let first = shop.get("jobs/import");

    // It is there still; then it goes while nobody looks.
    shop.kill();
    shop.start(&[]);
    shop.repo.write(&[("README.md", "one")]);
    shop.converge();
    shop.kill();
    assert_eq!(shop.get("jobs/import")["metadata"]["uid"], first["metadata"]["uid"]);
    node.delete(&shop.path("jobs/import"));
    node.until_gone(&shop.path("jobs/import"));
    shop.start(&[]);
    shop.repo.write(&[("README.md", "two")]);
    shop.converge();
    thread::sleep(A_WHILE);
    assert!(shop.find("jobs/import").is_none(), "it was made again");

    let health = "health: { startup: 1s, deadline: 15s, soak: 300ms }";
    shop.write(health, &(ended + &job("endless", "exec /bin/busybox sleep 1000", "")));
    shop.push();
    node.until(&shop.path("jobs/endless"), |job| job["status"]["active"] == 1);
    shop.kill();
    shop.start(&[]);
    shop.wait_app("taken back", |app| {
        assert_ne!(app.phase, "Good", "a Job that runs has not ended");
        app.phase == "RolledBack"
    });
}
