//! What Fleet, groups, Site and Device say about changing their boxes. Later ones win, field by field: the Fleet,
//! its groups in their order, the Site, the Device.

use std::time::Duration;

use serde_json::{Value, json};

use super::check::Url;
use super::decode::{Context, Decode, Placed, Whole, record, text, words};
use super::units::{Bytes, Percent, Span};
use crate::change::{ChangePolicy, DailyWindow, GRACE, Gate, GateKind, PruneLimit, TimeOfDay, Windows, Zone};
use crate::diagnostic::Position;
use crate::network::{BudgetPeriod, ByteBudget, DownloadLimits};
use crate::yaml::Node;

text!(Zone, json!({"type": "string", "examples": ["Europe/Berlin", "UTC"]}));
text!(Reason, json!({"type": "string", "minLength": 1}));
text!(TimeOfDay, json!({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}));

/// Why, for people: a text with something in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason(pub String);

impl std::str::FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().is_empty() {
            true => Err("the reason is empty: state a reason, or remove the field".to_owned()),
            false => Ok(Reason(text.to_owned())),
        }
    }
}

words! {
    /// A day of the week.
    pub enum Day {
        /// Monday.
        Monday = "mon",
        /// Tuesday.
        Tuesday = "tue",
        /// Wednesday.
        Wednesday = "wed",
        /// Thursday.
        Thursday = "thu",
        /// Friday.
        Friday = "fri",
        /// Saturday.
        Saturday = "sat",
        /// Sunday.
        Sunday = "sun",
    }
}

impl From<Day> for jiff::civil::Weekday {
    fn from(day: Day) -> Self {
        match day {
            Day::Monday => Self::Monday,
            Day::Tuesday => Self::Tuesday,
            Day::Wednesday => Self::Wednesday,
            Day::Thursday => Self::Thursday,
            Day::Friday => Self::Friday,
            Day::Saturday => Self::Saturday,
            Day::Sunday => Self::Sunday,
        }
    }
}

record! {
    /// A window that comes again.
    pub struct WindowFields, "the window" {
        /// The days on which it begins; every day unless given.
        "days" => days: Vec<Day> = Vec::new();
        /// When it begins, such as "22:00".
        "from" => from: TimeOfDay;
        /// When it ends; on the next day if that isn't later than from.
        "to" => to: TimeOfDay;
    }
}

record! {
    /// When boxes may be changed, and when what that needs may be downloaded.
    pub struct WindowsFields, "policy.windows" {
        /// The time zone of the clocks that from and to are read from.
        "timezone" => timezone: Zone = Zone::utc();
        /// When changes are applied; at any time unless given.
        "apply" => apply: Vec<WindowFields> = Vec::new();
        /// When images are downloaded; at any time unless given.
        "download" => download: Vec<WindowFields> = Vec::new();
    }
}

record! {
    /// The box is in use while a file is there.
    pub struct FileGate, "file" {
        /// The file's path on the box.
        "path" => path: Placed<String>;
    }
}

record! {
    /// The box is free when a program exits with code 0.
    pub struct CommandGate, "command" {
        /// The program and its arguments; there is no shell.
        "run" => run: Placed<Vec<String>>;
        /// How long it may take, at most 1m.
        "timeout" => timeout: Placed<Span> = Placed { at: Position::START, value: Span(COMMAND_TIMEOUT) };
    }
}

record! {
    /// The box is free when a GET is answered with 200 to 299.
    pub struct HttpGate, "http" {
        /// A complete http:// URL.
        "url" => url: Url;
    }
}

record! {
    /// A sign on the box that it is in use: exactly one of file, command and http.
    pub struct GateFields, "the gate" {
        /// The name that messages use.
        "name" => name: String;
        /// The box is in use while a file is there.
        "file" => file: Option<FileGate> = None;
        /// The box is free when a program exits with code 0.
        "command" => command: Option<CommandGate> = None;
        /// The box is free when a GET is answered with 200 to 299.
        "http" => http: Option<HttpGate> = None;
        /// The longest time for which it holds a change.
        "maxHold" => max_hold: Span = Span(MAX_HOLD);
    }
}

/// How long a gate's program may take unless it is said.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// No gate's program is waited for any longer.
const LONGEST_COMMAND: Duration = Duration::from_secs(60);
/// How long a gate holds a change unless it is said.
const MAX_HOLD: Duration = Duration::from_secs(24 * 3600);

impl Decode for Gate {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = GateFields::decode(node, context)?;
        let probe = match (fields.file, fields.command, fields.http) {
            (Some(file), None, None) => file_probe(file, context)?,
            (None, Some(command), None) => command_probe(command, context)?,
            (None, None, Some(http)) => GateKind::Http { url: http.url.into_string() },
            _ => {
                context.error_with(
                    node.at,
                    "a gate must have exactly one of file, command and http",
                    "give one of file, command and http",
                );
                return None;
            }
        };
        Some(Gate { name: fields.name, probe, max_hold: fields.max_hold.0 })
    }

    fn schema() -> Value {
        GateFields::schema()
    }
}

fn file_probe(file: FileGate, context: &mut Context<'_>) -> Option<GateKind> {
    if !file.path.value.starts_with('/') {
        context.error(file.path.at, "the file of a gate must be an absolute path, beginning with /");
        return None;
    }
    Some(GateKind::File { path: file.path.value.into() })
}

fn command_probe(command: CommandGate, context: &mut Context<'_>) -> Option<GateKind> {
    let program = command.run.value.first();
    if program.is_none_or(|program| !program.starts_with('/')) {
        context.error(command.run.at, "the program of a gate must be an absolute path, beginning with /");
        return None;
    }
    let timeout = command.timeout.value.0;
    if timeout.is_zero() || timeout > LONGEST_COMMAND {
        context.error(command.timeout.at, "the timeout of a gate's program must be from 1ms to 1m");
        return None;
    }
    Some(GateKind::Command { command: command.run.value, timeout })
}

record! {
    /// How much may be pruned without being held, and when orphaned data may be removed.
    pub struct Prune, "policy.prune" {
        /// How many apps may be removed at once.
        "maxApps" => max_apps: Whole<0, 1_000_000> = Whole(1);
        /// Which share of the apps may be removed at once.
        "maxShare" => max_share: Percent = Percent(25);
        /// How long orphaned data is kept after the last app stopped wanting it, even if a Purge document names it.
        "grace" => grace: Span = Span(GRACE);
    }
}

words! {
    /// The period of a budget.
    pub enum PeriodWord {
        /// From midnight to midnight.
        Day = "day",
        /// From Monday to Sunday.
        Week = "week",
        /// From the first of a month.
        Month = "month",
    }
}

record! {
    /// A number of bytes for each period, in the time zone of policy.windows.
    pub struct BudgetFields, "budget" {
        /// How many bytes, such as 500Mi; received and sent together.
        "bytes" => bytes: Bytes;
        /// The period that this budget is for.
        "per" => per: PeriodWord;
    }
}

record! {
    /// What downloads may use of a metered link; `{}` is no limit.
    pub struct DownloadFields, "downloads" {
        /// Bytes a second, such as 1Mi, that all downloads share.
        "rate" => rate: Option<Placed<Bytes>> = None;
        /// How much may be used in a period.
        "budget" => budget: Option<BudgetFields> = None;
    }
}

impl Decode for DownloadLimits {
    fn decode(node: &Node, context: &mut Context<'_>) -> Option<Self> {
        let fields = DownloadFields::decode(node, context)?;
        if let Some(rate) = fields.rate.as_ref().filter(|rate| rate.value.0 < SLOWEST_RATE) {
            context.error(rate.at, format!("rate must be at least {SLOWEST_RATE} bytes a second"));
            return None;
        }
        let budget = fields.budget.map(|budget| ByteBudget { bytes: budget.bytes.0, per: budget.per.into() });
        Some(DownloadLimits { rate: fields.rate.map(|rate| rate.value.0), budget })
    }

    fn schema() -> Value {
        DownloadFields::schema()
    }
}

/// With less not even a poll would come to an end.
const SLOWEST_RATE: u64 = 1024;

impl From<PeriodWord> for BudgetPeriod {
    fn from(word: PeriodWord) -> Self {
        match word {
            PeriodWord::Day => BudgetPeriod::Day,
            PeriodWord::Week => BudgetPeriod::Week,
            PeriodWord::Month => BudgetPeriod::Month,
        }
    }
}

record! {
    /// When and how much boxes may be changed. A field that is given replaces the one of the layer below.
    pub struct PolicyFields, "policy" {
        /// A plan that would remove more apps than both limits allow is held.
        "prune" => prune: Option<Prune> = None;
        /// When changes are applied, and when what they need is downloaded.
        "windows" => windows: Option<WindowsFields> = None;
        /// Signs that the box is in use, which delay a change; `[]` is none.
        "gates" => gates: Option<Vec<Gate>> = None;
        /// What downloads may use of a metered link; `{}` is no limit.
        "downloads" => downloads: Option<DownloadLimits> = None;
        /// While this is set, windows, gates and download limits don't apply; its text says why.
        "urgent" => urgent: Option<Reason> = None;
    }
}

impl PolicyFields {
    /// Nothing is said.
    pub fn none() -> Self {
        PolicyFields { prune: None, windows: None, gates: None, downloads: None, urgent: None }
    }

    /// Takes over what it says, in the place of what came before.
    pub fn apply_to(&self, policy: &mut ChangePolicy) {
        if let Some(prune) = &self.prune {
            policy.prune = PruneLimit {
                max_apps: usize::try_from(prune.max_apps.0).unwrap_or(usize::MAX),
                max_share_percent: prune.max_share.0,
            };
            policy.grace = prune.grace.0;
        }
        if let Some(windows) = &self.windows {
            let of = |fields: &[WindowFields]| Windows {
                zone: windows.timezone.clone(),
                daily: fields.iter().map(DailyWindow::from).collect(),
            };
            policy.zone = windows.timezone.clone();
            policy.apply = of(&windows.apply);
            policy.download = of(&windows.download);
        }
        if let Some(gates) = &self.gates {
            policy.gates.clone_from(gates);
        }
        if let Some(downloads) = self.downloads {
            policy.downloads = downloads;
        }
        if self.urgent.is_some() {
            policy.urgent = self.urgent.as_ref().map(|reason| reason.0.clone());
        }
    }
}

impl From<&WindowFields> for DailyWindow {
    fn from(fields: &WindowFields) -> Self {
        DailyWindow {
            days: fields.days.iter().map(|day| (*day).into()).collect(),
            from: fields.from,
            to: fields.to,
        }
    }
}
