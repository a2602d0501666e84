//! Probes by gRPC, asked of a real server.

use crate::shop::Shop;
use crate::support::agent_box::app;
use crate::support::go_program;
use crate::support::image::Image;

/// How long a release is given, so that one that never gets ready is taken back soon.
const SOON: &str = "  health: { startup: 2s, deadline: 12s, soak: 300ms }\n";

#[test]
fn probes_by_grpc_judge_a_server_by_what_its_health_service_says() {
    let Some(server) = go_program::grpc_server() else { return };
    let server = std::fs::read(server).unwrap();
    let mut shop = Shop::new();
    let image = Image::new().layer(&[("server", 0o755, &server)]).entrypoint(&["/server"]);
    let digest = shop.registry.push("cart", "1", &image);
    let cart = format!("{}/cart@{digest}", shop.registry.host());
    let web = shop.push("1");
    let write = |shop: &Shop, image: &str, container: &str| shop.write_app("pos", image, SOON, "", container);
    let probe = |kind: &str, grpc: &str| {
        format!("          {kind}Probe: {{ grpc: {{ {grpc} }}, periodSeconds: 1, timeoutSeconds: 5 }}\n")
    };
    let well = [
        probe("startup", "port: 50051"),
        probe("liveness", "port: 50051"),
        probe("readiness", "port: 50051, service: well"),
    ]
    .concat();
    write(&shop, &cart, &well);
    shop.agent.start(&[]);
    shop.converge();

    let no_health = "          env: [ { name: HEALTH, value: none } ]\n".to_owned();
    for (image, container, said) in [
        (&cart, probe("readiness", "port: 50051, service: ill"), "the service \"ill\" is NOT_SERVING"),
        (
            &cart,
            probe("readiness", "port: 50051, service: other"),
            "it does not know the service \"other\": unknown service",
        ),
        (
            &cart,
            no_health + &probe("readiness", "port: 50051"),
            "it has no health service (grpc.health.v1.Health): unknown service",
        ),
        (&cart, probe("readiness", "port: 50052"), "connection refused: nothing listens there"),
        (&web, probe("readiness", "port: 8080"), "nothing that speaks gRPC listens there"),
    ] {
        write(&shop, image, &container);
        shop.commit();
        shop.agent.wait_until("taken back, with the reason", |agent, status| {
            app(status, "pos").is_some_and(|app| app.phase == "RolledBack") && agent.log().contains(said)
        });
        write(&shop, &cart, &well);
        shop.converge();
    }

    // Whether a server that was well lives on is for its liveness probe to say.
    write(&shop, &cart, &probe("liveness", "port: 50051, service: ill"));
    shop.commit();
    let said = "its liveness probe failed 3 times: gRPC health check at ";
    shop.agent.wait_until("started again", |agent, _| {
        agent.log().contains(&format!("drift of Pod/pos was corrected: pos: {said}"))
    });
}
