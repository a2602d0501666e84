//! `holdfast demo`: what Holdfast does, shown on a box in a temporary folder. It needs nothing but this
//! program: the repository is written, signed and served from the folder, the workload is text. With `--podman`
//! it needs podman as well, and the workload is this program in containers.

#[cfg(feature = "podman")]
mod containers;
#[cfg(feature = "podman")]
mod http;
#[cfg(feature = "podman")]
mod registry;
mod repository;
mod screen;
mod stage;
#[cfg(feature = "podman")]
pub(crate) mod web;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::screen::Screen;
use self::stage::{Stage, ask};

/// What runs the demo's apps.
#[derive(Clone, Debug)]
pub enum Runtime {
    /// WebAssembly.
    Wasm,
    /// podman, at this socket or where it is found.
    #[cfg(feature = "podman")]
    Podman(Option<PathBuf>),
}

/// Plays the demo; with `keep` leaves the box running.
pub fn run(runtime: &Runtime, keep: bool) -> Result<()> {
    let screen = Screen::new();
    let dir = temporary_folder()?;
    let mut stage = Stage::build(&dir, runtime)?;
    let played = play(&screen, &mut stage);
    if keep && played.is_ok() {
        stage.leave_running();
        look_closer(&screen, &stage);
        return Ok(());
    }
    let cleared = clear(&screen, &mut stage);
    match played {
        Ok(()) => {
            cleared?;
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
            screen.chapter("That was the whole demo; all its files have been removed.");
            screen.say("`holdfast demo --keep` leaves the box running, so that you can look around.");
            Ok(())
        }
        Err(error) => Err(error.context(format!("the demo failed; its folder is kept: {}", dir.display()))),
    }
}

fn play(screen: &Screen, stage: &mut Stage) -> Result<()> {
    first_commit(screen, stage)?;
    a_change(screen, stage)?;
    an_unsigned_commit(screen, stage)?;
    a_broken_document(screen, stage)?;
    a_bad_release(screen, stage)?;
    a_killed_agent(screen, stage)
}

fn first_commit(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("1. A signed commit, and an agent that has never seen it");
    screen.say(&format!("the repository is {}", stage.dir.join("edge.git").display()));
    let (hello, menu) = (stage.hello, stage.menu);
    stage.app("hello", hello, "Hello, this is version 1", 200)?;
    stage.app("menu", menu, "Today: soup", 200)?;
    let commit = stage.repository.commit("Place two apps", true)?;
    screen.say(&format!("commit {commit}, signed: two apps {}", stage.kind()));
    stage.start()?;
    answers(screen, hello, "Hello, this is version 1")?;
    answers(screen, menu, "Today: soup")?;
    screen.wait("both apps passed their soak and are good", || {
        stage.status().filter(|status| status.converged).map(drop)
    })
}

fn a_change(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("2. A commit that changes an app");
    stage.app("hello", stage.hello, "Hello, this is version 2", 200)?;
    push(screen, stage, "Say version 2", true)?;
    answers(screen, stage.hello, "Hello, this is version 2")?;
    screen.wait("converged on the new commit", || stage.status().filter(|status| status.converged).map(drop))
}

fn an_unsigned_commit(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("3. A commit that nobody signed");
    stage.app("hello", stage.hello, "Hello from a stranger", 200)?;
    let commit = push(screen, stage, "Say something else", false)?;
    let held = screen.wait("held", || {
        let status = stage.status()?;
        let seen = status.revision.fetched.as_ref().is_some_and(|fetched| fetched.0.starts_with(&commit));
        status.held.into_iter().next().filter(|_| seen)
    })?;
    screen.say(&format!("the agent says: {}", held.cause));
    answers(screen, stage.hello, "Hello, this is version 2")
}

fn a_broken_document(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("4. A signed commit with a broken document, and a change to another app");
    stage.app("hello", stage.hello, "Hello, this is version 3", 200)?;
    stage.app_with_typo("menu");
    push(screen, stage, "Break the menu", true)?;
    let held = screen.wait("menu is held", || stage.app_status("menu")?.held)?;
    screen.say(&format!("the agent says: {}", held.cause));
    answers(screen, stage.menu, "Today: soup")?;
    answers(screen, stage.hello, "Hello, this is version 3")?;
    stage.app("menu", stage.menu, "Today: soup", 200)?;
    push(screen, stage, "Mend the menu", true)?;
    screen.wait("fixed by the next commit", || stage.status().filter(|status| status.converged).map(drop))
}

fn a_bad_release(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("5. A signed commit whose app starts, and then fails its health check");
    stage.app("hello", stage.hello, "Hello, this is version 4", 503)?;
    let watch = Watch::start(stage.hello);
    push(screen, stage, "Say version 4", true)?;
    answers(screen, stage.hello, "Hello, this is version 4")?;
    let held = screen.wait("rolled back", || {
        stage.app_status("hello").filter(|app| app.phase == "RolledBack").and_then(|app| app.held)
    })?;
    screen.say(&format!("the agent says: {}", held.cause));
    answers(screen, stage.hello, "Hello, this is version 3")?;
    watch.stop().say(screen);
    Ok(())
}

fn a_killed_agent(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("6. kill -9 of the agent");
    let watch = Watch::start(stage.hello);
    stage.kill_agent()?;
    screen.say("the agent is dead");
    answers(screen, stage.hello, "Hello, this is version 3")?;
    thread::sleep(Duration::from_millis(500));
    stage.start()?;
    screen.wait("started again, and found what runs", || {
        stage.app_status("hello").filter(|app| app.health == "Healthy").map(drop)
    })?;
    let heard = watch.stop();
    heard.say(screen);
    if heard.lost > 0 {
        bail!("the app was away while the agent was dead");
    }
    Ok(())
}

fn push(screen: &Screen, stage: &mut Stage, message: &str, signed: bool) -> Result<String> {
    let commit = stage.repository.commit(message, signed)?;
    screen.say(&format!("commit {commit}, {}: {message}", if signed { "signed" } else { "not signed" }));
    stage.poll();
    Ok(commit)
}

fn answers(screen: &Screen, port: u16, text: &str) -> Result<()> {
    let what = format!("http://127.0.0.1:{port}/ answers \"{text}\"");
    screen.wait(&what, || ask(port).filter(|answer| answer == text).map(drop))
}

/// How long a [`Watch`] waits between two questions: about 20 of them a second.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(50);

/// Asks a port again and again, on a thread of its own.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Heard>,
}

/// What a [`Watch`] heard.
#[derive(Default)]
struct Heard {
    asked: u32,
    /// How often nobody answered.
    lost: u32,
    /// How often it heard each text.
    texts: BTreeMap<String, u32>,
}

impl Watch {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut heard = Heard::default();
            while !told.load(Ordering::Relaxed) {
                heard.asked += 1;
                match ask(port) {
                    Some(text) => *heard.texts.entry(text).or_default() += 1,
                    None => heard.lost += 1,
                }
                thread::sleep(BETWEEN_QUESTIONS);
            }
            heard
        });
        Watch { stop, thread }
    }

    fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        // The thread has nothing in it that panics.
        self.thread.join().unwrap_or_default()
    }
}

impl Heard {
    fn say(&self, screen: &Screen) {
        let Heard { asked, lost, texts } = self;
        let texts: Vec<String> =
            texts.iter().map(|(text, times)| format!("{times} times \"{text}\"")).collect();
        let texts = texts.join(", ");
        screen.say(&format!(
            "the app was asked {asked} times meanwhile and answered {texts}; answers lost: {lost}"
        ));
    }
}

/// Takes the apps away, as a commit does it, and stops the agent.
fn clear(screen: &Screen, stage: &mut Stage) -> Result<()> {
    screen.chapter("Tidying up: a signed commit without the apps");
    stage.repository.clear("apps/");
    push(screen, stage, "Take the apps away", true)?;
    screen.wait("both are gone", || {
        let status = stage.status()?;
        (status.apps.is_empty() && ask(stage.hello).is_none()).then_some(())
    })?;
    stage.stop_agent()
}

fn look_closer(screen: &Screen, stage: &Stage) {
    let dir = &stage.dir;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("holdfast"));
    let (program, config) = (program.display(), dir.join("agent.toml"));
    let config = config.display();
    screen.chapter("The box keeps running. To look closer:");
    for command in ["status", "plan", "events", "doctor"] {
        screen.say(&format!("{program} {command} --config {config}"));
    }
    screen.say(&format!("less {}", dir.join("agent.log").display()));
    for command in stage.ends_it() {
        screen.say(&command);
    }
}

fn temporary_folder() -> Result<PathBuf> {
    let mut random = [0; 6];
    getrandom::fill(&mut random)
        .map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = std::env::temp_dir().join(format!("holdfast-demo-{name}"));
    std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
