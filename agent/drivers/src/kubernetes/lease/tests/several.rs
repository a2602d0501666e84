//! Several candidates at once, on a clock that jumps to whatever comes next.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::{Clock, Leadership, Standing};
use super::server::{Line, Server, Weather, halted};
use super::*;

/// A candidate and what befalls it.
#[derive(Clone, Debug)]
struct Fate {
    /// When it is started, in milliseconds.
    start: u64,
    /// When it is killed, if it is.
    kill: Option<u64>,
    /// When it is halted, and for how long.
    halts: Vec<(u64, u64)>,
    /// How fast its boot clock goes, in thousandths.
    rate: u32,
    /// What its clock on the wall shows; `None` of one that is right.
    wall: Option<i64>,
    weather: Weather,
    seed: u64,
}

impl Fate {
    fn calm(seed: u64) -> Self {
        Fate { start: seed, kill: None, halts: vec![], rate: 1000, wall: None, weather: Weather::CALM, seed }
    }
}

struct Running {
    leadership: Leadership,
    task: JoinHandle<()>,
    line: Arc<Line>,
}

fn run(name: &str, fate: &Fate, server: &Arc<Server>) -> Running {
    let (start, rate, stands_at) = (Instant::now(), fate.rate, fate.wall);
    let wall = move || match stands_at {
        Some(second) => Timestamp::from_second(second).unwrap(),
        None => wall() + start.elapsed(),
    };
    // Boot clocks begin anywhere.
    let uptime = move || seconds(u64::from(rate) * 977) + start.elapsed() * rate / 1000;
    let clock = Clock { uptime: Arc::new(uptime), wall: Arc::new(wall) };
    let line = Line::new(server, fate.weather, fate.seed);
    let election = Election::new(name.to_owned(), Times::USUAL);
    let (leadership, work) = Leadership::prepare(line.clone(), election, clock);
    let milliseconds = Duration::from_millis;
    let halts = fate.halts.iter().map(|(at, length)| (milliseconds(*at), milliseconds(*length))).collect();
    Running { leadership, task: tokio::spawn(halted(work, halts)), line }
}

fn leads(one: &Running) -> bool {
    let leads = matches!(one.leadership.standing(), Standing::Leads { .. });
    assert_eq!(leads, one.leadership.leads_until().is_some());
    leads
}

/// The candidates that lead now.
fn leaders(all: &[Running]) -> Vec<usize> {
    (0..all.len()).filter(|one| leads(&all[*one])).collect()
}

/// Waits until one of these leads, and tells who and how long that took.
async fn next_leader(all: &[Running], limit: Duration) -> Option<(usize, Duration)> {
    let start = Instant::now();
    while start.elapsed() <= limit {
        if let Some(one) = leaders(all).first() {
            return Some((*one, start.elapsed()));
        }
        sleep(Duration::from_millis(10)).await;
    }
    None
}

/// Runs a test of several tasks on a clock that jumps to whatever comes next.
fn simulate<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// How often more than one believes to lead, and how often one does, in looks of ten milliseconds.
async fn watch(fates: &[Fate], length: u64) -> (u64, u64) {
    let server = Arc::new(Server::default());
    let start = Instant::now();
    let (mut several, mut one) = (0, 0);
    let mut all: Vec<Option<Running>> = fates.iter().map(|_| None).collect();
    while start.elapsed() < Duration::from_millis(length) {
        let now = u64::try_from(start.elapsed().as_millis()).unwrap();
        for (index, fate) in fates.iter().enumerate() {
            if all[index].is_none() && now >= fate.start {
                all[index] = Some(run(&format!("box-{index}"), fate, &server));
            }
            if let (Some(running), true) = (&all[index], fate.kill.is_some_and(|kill| now >= kill)) {
                running.task.abort();
            }
        }
        // A killed one counts for as long as it would have believed.
        let count = all.iter().flatten().filter(|running| leads(running)).count();
        several += u64::from(count > 1);
        one += u64::from(count == 1);
        sleep(Duration::from_millis(10)).await;
    }
    (several, one)
}

const LENGTH: u64 = 120_000;

fn weather() -> impl Strategy<Value = Weather> {
    (1..6000_u64, 0..30_u64, 0..30_u64, 0..20_u64).prop_map(|(delay, lost, failed, stuck)| Weather {
        delay,
        lost,
        failed,
        stuck,
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    let halts = prop::collection::vec((0..LENGTH, 1..40_000_u64), 0..4);
    // No real clock is off by as much as a fiftieth.
    let rate = 980..=1020_u32;
    let wall = prop::option::of(prop_oneof![Just(0), Just(-1_000_000_000), 0..4_000_000_000_i64]);
    (0..30_000_u64, prop::option::of(0..LENGTH), halts, rate, wall, weather(), any::<u64>()).prop_map(
        |(start, kill, halts, rate, wall, weather, seed)| Fate {
            start,
            kill,
            halts,
            rate,
            wall,
            weather,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn never_do_two_believe_to_lead_whatever_befalls_them(fates in prop::collection::vec(fate(), 2..5)) {
        let (several, _) = simulate(watch(&fates, LENGTH));
        prop_assert_eq!(several, 0);
    }

    #[test]
    fn another_leads_within_the_lease_and_a_retry_when_the_leader_dies(seed in 1..u64::MAX / 8, after in 0..30_000_u64) {
        let taken = simulate(async {
            let server = Arc::new(Server::default());
            let mut all: Vec<Running> =
                (0..3).map(|index| run(&format!("box-{index}"), &Fate::calm(seed + index), &server)).collect();
            let (leader, _) = next_leader(&all, seconds(10)).await.unwrap();
            sleep(Duration::from_millis(after)).await;
            all.remove(leader).task.abort();
            next_leader(&all, seconds(60)).await.map(|(_, length)| length)
        });
        // The others see its last write within a retry (of up to 2.4 s) and two delays of 0.3 s each way; a write of
        // its last moment may come 0.3 s after it; and after a breath a read and a write are to be done.
        let limit = LEASE + Duration::from_millis(2_400 + 600 + 300 + 100 + 1_200);
        prop_assert!(taken.is_some_and(|taken| taken <= limit), "{:?}", taken);
    }
}

#[test]
fn calm_weather_has_one_leader_all_the_time() {
    let fates: Vec<Fate> = (1..4).map(Fate::calm).collect();
    let (several, one) = simulate(watch(&fates, LENGTH));
    assert_eq!(several, 0);
    assert!(one > LENGTH / 10 * 95 / 100, "{one} looks");
}

#[test]
fn who_stops_lets_another_lead_at_once() {
    simulate(async {
        let server = Arc::new(Server::default());
        let mut all = vec![run("box-0", &Fate::calm(5), &server)];
        next_leader(&all, seconds(10)).await.unwrap();
        all.push(run("box-1", &Fate::calm(6), &server));
        sleep(seconds(30)).await;
        assert_eq!(leaders(&all), [0]);
        let first = all.remove(0);
        first.leadership.stop().await;
        assert!(!leads(&first));
        first.task.await.unwrap();
        let (_, length) = next_leader(&all, seconds(60)).await.unwrap();
        assert!(length < seconds(5), "{length:?}");
        let lease = server.lease().unwrap();
        assert_eq!(lease["spec"]["holderIdentity"], "box-1");
        assert_eq!(lease["spec"]["leaseTransitions"], 1);
    });
}

#[test]
fn who_stops_while_the_server_is_silent_ends_all_the_same_and_leads_no_more() {
    simulate(async {
        let server = Arc::new(Server::default());
        let all = [run("box-0", &Fate::calm(5), &server)];
        next_leader(&all, seconds(10)).await.unwrap();
        all[0].line.weather.lock().unwrap().lost = 100;
        all[0].leadership.stop().await;
        assert!(!leads(&all[0]));
        let start = Instant::now();
        let [only] = all;
        only.task.await.unwrap();
        assert!(start.elapsed() < seconds(20));
    });
}

#[test]
fn a_leader_that_the_server_no_longer_answers_stops_leading_by_itself() {
    simulate(async {
        let server = Arc::new(Server::default());
        let all = [run("box-0", &Fate::calm(5), &server), run("box-1", &Fate::calm(6), &server)];
        let (leader, _) = next_leader(&all, seconds(10)).await.unwrap();
        let mut changes = all[leader].leadership.changes();
        assert!(matches!(changes.next().await, Some(Standing::Leads { .. })));
        all[leader].line.weather.lock().unwrap().lost = 100;
        let until = all[leader].leadership.leads_until().unwrap();
        let standing = changes.next().await.unwrap();
        assert!(
            matches!(&standing, Standing::Unknown { reason } if reason.contains("does not answer")),
            "{standing:?}"
        );
        assert!(Instant::now() <= until + seconds(5), "one renewal may still have come through");
        let (other, _) = next_leader(&all, seconds(30)).await.unwrap();
        assert_ne!(other, leader);
    });
}

#[test]
fn who_stands_by_tells_who_leads_and_says_so_when_it_no_longer_knows() {
    simulate(async {
        let server = Arc::new(Server::default());
        let first = run("till-1_0123456789abcdef", &Fate::calm(5), &server);
        sleep(seconds(5)).await;
        let second = run("till-2_0123456789abcdef", &Fate::calm(6), &server);
        assert!(
            matches!(second.leadership.standing(), Standing::Unknown { reason } if reason.contains("not been asked"))
        );
        sleep(seconds(5)).await;
        let Standing::StandsBy { leader, since } = second.leadership.standing() else {
            panic!("it doesn't stand by")
        };
        assert_eq!(leader, "till-1");
        assert!(since.is_some());
        second.line.weather.lock().unwrap().failed = 100;
        sleep(seconds(5)).await;
        assert!(
            matches!(second.leadership.standing(), Standing::StandsBy { .. }),
            "it has heard of it just now"
        );
        sleep(seconds(20)).await;
        let standing = second.leadership.standing();
        assert!(matches!(&standing, Standing::Unknown { reason } if reason.contains("503")), "{standing:?}");
        assert!(leads(&first));
    });
}

#[test]
fn a_lease_that_somebody_deletes_comes_back_and_its_leader_goes_on() {
    simulate(async {
        let server = Arc::new(Server::default());
        let all = [run("box-0", &Fate::calm(5), &server), run("box-1", &Fate::calm(6), &server)];
        let (leader, _) = next_leader(&all, seconds(10)).await.unwrap();
        sleep(seconds(10)).await;
        server.delete();
        for _ in 0..3_000 {
            sleep(Duration::from_millis(10)).await;
            assert_eq!(leaders(&all), [leader]);
        }
        assert!(server.lease().is_some());
    });
}

#[test]
fn a_node_whose_clock_cannot_be_read_never_leads_and_does_not_ask_all_the_time() {
    simulate(async {
        let server = Arc::new(Server::default());
        let clock = Clock { uptime: Arc::new(|| Duration::MAX), wall: Arc::new(wall) };
        let line = Line::new(&server, Weather { delay: 0, ..Weather::CALM }, 5);
        let election = Election::new("box-0".to_owned(), Times::USUAL);
        let (leadership, work) = Leadership::prepare(line, election, clock);
        let task = tokio::spawn(work);
        sleep(seconds(10)).await;
        assert!(!matches!(leadership.standing(), Standing::Leads { .. }));
        assert_eq!(leadership.leads_until(), None);
        let version = server.lease().unwrap()["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>();
        assert!(version.unwrap() <= 101);
        task.abort();
    });
}

#[test]
fn the_changes_end_with_the_candidacy() {
    simulate(async {
        let server = Arc::new(Server::default());
        let Running { leadership, task, .. } = run("box-0", &Fate::calm(5), &server);
        let mut changes = leadership.changes();
        let mut seen = vec![changes.next().await.unwrap()];
        while !matches!(seen.last(), Some(Standing::Leads { .. })) {
            seen.push(changes.next().await.unwrap());
        }
        leadership.stop().await;
        drop(leadership);
        while let Some(standing) = changes.next().await {
            seen.push(standing);
        }
        task.await.unwrap();
        let last = seen.last().unwrap();
        assert!(
            matches!(last, Standing::Unknown { reason } if reason.contains("no longer a candidate")),
            "{seen:?}"
        );
    });
}
