//! What is kept of all that a watch tells.

use serde_json::json;

use super::super::connection::Connection;
use super::super::discovery::own;
use super::*;

struct Fixture {
    watched: WatchedKind,
    owner: OwnerMark,
    app: AppName,
    /// The proof of the object `config`.
    proof: String,
}

impl Fixture {
    fn new() -> Self {
        let api = Api { connection: Arc::new(Connection::new("/nonexistent".into(), None)) };
        let (owner, app) = (OwnerMark::of("till-1"), "pos".parse().unwrap());
        let (prover, key) = Prover::with_key(api, owner.clone());
        let kind = Arc::new(own("", "ConfigMap", "configmaps", true));
        let proof = key.prove(&owner, &app, &"ConfigMap/shop/config".parse().unwrap());
        Fixture { watched: WatchedKind::new(kind, owner.clone(), prover), owner, app, proof }
    }

    /// A ConfigMap with our labels and these annotations, by a field manager that is called as we are.
    fn tell(&self, name: &str, version: u32, notes: &Value) -> Option<Told> {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "labels": {
                (marks::OWNER): self.owner.mark, (marks::APP): self.app, (marks::PART_OF): self.owner.set_of(&self.app),
            },
            "annotations": notes,
            "managedFields": [{ "manager": marks::MANAGER, "operation": "Apply", "fieldsV1": { "f:data": {} } }],
        } });
        self.watched.take(Record::of_value(&object).unwrap())
    }

    fn kept(&self) -> usize {
        locked(&self.watched.slots).len() + locked(&self.watched.ended).len()
    }
}

#[test]
fn what_carries_our_label_and_is_not_ours_is_not_kept_however_much_of_it_there_is() {
    let fixture = Fixture::new();
    let ours = json!({ marks::OBJECT: "ConfigMap/shop/config", marks::PROOF: fixture.proof });
    assert!(fixture.tell("config", 1, &ours).is_some());
    for number in 0..500 {
        let name = format!("other-{number}");
        let object = format!("ConfigMap/shop/{name}");
        for notes in [
            // Copied by a controller; as anybody may write them; with a proof that was made for another object.
            json!({}),
            ours.clone(),
            json!({ marks::OBJECT: object }),
            json!({ marks::OBJECT: object, marks::PROOF: fixture.proof }),
        ] {
            assert!(fixture.tell(&name, 2, &notes).is_none(), "{name}: {notes}");
        }
    }
    assert_eq!(fixture.kept(), 1);
    // Ours that isn't any more is told of once, and not kept.
    let taken = json!({ marks::OBJECT: "ConfigMap/shop/config" });
    assert!(fixture.tell("config", 3, &taken).is_some());
    assert!(fixture.tell("config", 4, &taken).is_none());
    assert_eq!(fixture.kept(), 0);
}
