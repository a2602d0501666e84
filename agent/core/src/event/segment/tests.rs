//! Random histories of events and sealings: what was left alone verifies, and any single change is found.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A log as the store keeps it, in memory.
#[derive(Clone, Debug, Default)]
struct Log {
    segments: Segments,
    events: Vec<Event>,
    /// Every hash there ever was, for the digests.
    hashes: Vec<Digest>,
}

impl Log {
    fn head(&self) -> Option<ChainHead> {
        self.events.last().map(Event::head)
    }

    fn append(&mut self, seconds: i64) {
        let time = Timestamp::from_second(seconds).unwrap();
        let event = Event::after(self.head().as_ref(), time, Draft::new("x", seconds.to_string()));
        self.push(event);
    }

    /// Seals the oldest `count` events, but never all.
    fn seal(&mut self, count: usize) {
        let count = count.min(self.events.len().saturating_sub(1));
        if count == 0 {
            return;
        }
        let sealed: Vec<Event> = self.events.drain(..count).collect();
        self.segments = self.segments.and(&sealed);
        let event = self.segments.event(self.head().as_ref(), Timestamp::UNIX_EPOCH);
        self.push(event);
    }

    fn push(&mut self, event: Event) {
        self.hashes.push(event.hash);
        self.events.push(event);
    }

    fn proof(&self) -> Seal {
        Seal { segments: self.segments.clone(), anchored: self.head() }
    }

    fn verify(&self) -> Result<Option<ChainHead>, BrokenChain> {
        verify_log(&self.proof(), &self.events)
    }
}

/// Appends by their time, sealings by how many.
fn history() -> impl Strategy<Value = Log> {
    let step = prop_oneof![3 => (0i64..1000).prop_map(Ok), 1 => (1usize..6).prop_map(Err)];
    proptest::collection::vec(step, 1..120).prop_map(|steps| {
        let mut log = Log::default();
        // There is something to be changed in each of them.
        log.append(0);
        for step in steps {
            match step {
                Ok(time) => log.append(time),
                Err(count) => log.seal(count),
            }
        }
        log
    })
}

/// Changes one field of something that has a JSON form.
fn change_one_field<T: Serialize + serde::de::DeserializeOwned>(value: &T, which: Index) -> Option<T> {
    let mut json = serde_json::to_value(value).unwrap();
    let fields = json.as_object_mut().unwrap();
    let name = fields.keys().nth(which.index(fields.len())).unwrap().clone();
    let field = fields.get_mut(&name).unwrap();
    *field = match field.clone() {
        serde_json::Value::Number(number) => (number.as_u64().unwrap() + 1).into(),
        serde_json::Value::String(text) if text.starts_with("sha256:") => {
            Digest::of(text.as_bytes()).to_string().into()
        }
        serde_json::Value::String(text) if name == "kind" || name == "message" => format!("{text}!").into(),
        serde_json::Value::String(_) => "2001-01-01T00:00:00Z".into(),
        _ => return None,
    };
    serde_json::from_value(json).ok()
}

proptest! {
    #[test]
    fn any_history_verifies_from_its_first_event_with_few_segments(log in history()) {
        prop_assert_eq!(log.verify().unwrap(), log.head());
        prop_assert!(log.segments.iter().count() <= MAX_SEGMENTS);
        let sealed: u64 = log.segments.iter().map(|segment| segment.count).sum();
        prop_assert_eq!(sealed as usize + log.events.len(), log.hashes.len());
        // Whoever has copies of the events finds the same digest, however the segments were put together.
        if let Some(newest) = log.segments.last() {
            let zero = Digest::from_bytes([0; 32]);
            let digest = log.hashes.iter().take(newest.last as usize).fold(zero, |all, hash| folded(&all, hash));
            prop_assert_eq!(newest.digest, digest);
        }
    }

    #[test]
    fn any_change_of_one_field_of_an_event_or_a_segment_is_found(
        log in history(), place in any::<Index>(), field in any::<Index>()
    ) {
        let mut changed = log.clone();
        let segments = log.segments.0.len();
        let place = place.index(segments + log.events.len());
        let really = match place.checked_sub(segments) {
            None => change_one_field(&log.segments.0[place], field).map(|it| changed.segments.0[place] = it),
            Some(place) => change_one_field(&log.events[place], field).map(|it| changed.events[place] = it),
        };
        let seal = Seal { segments: changed.segments.clone(), ..log.proof() };
        if really.is_some() && (&changed.segments, &changed.events) != (&log.segments, &log.events) {
            prop_assert!(verify_log(&seal, &changed.events).is_err());
        }
    }

    #[test]
    fn whatever_is_missing_doubled_or_out_of_order_is_found(
        log in history(), place in any::<Index>(), what in 0..3
    ) {
        let mut changed = log.clone();
        let segments = log.segments.0.len();
        let place = place.index(segments + log.events.len());
        fn meddle<T: Clone>(list: &mut Vec<T>, place: usize, what: i32) {
            match what {
                0 => drop(list.remove(place)),
                1 => list.insert(place, list[place].clone()),
                _ if place + 1 < list.len() => list.swap(place, place + 1),
                _ => drop(list.remove(place)),
            }
        }
        match place.checked_sub(segments) {
            None => meddle(&mut changed.segments.0, place, what),
            Some(place) => meddle(&mut changed.events, place, what),
        }
        let seal = Seal { segments: changed.segments.clone(), ..log.proof() };
        prop_assert!(verify_log(&seal, &changed.events).is_err());
    }

    #[test]
    fn a_segment_that_somebody_made_up_with_its_end_in_place_is_found(log in history(), more in 1u64..5) {
        prop_assume!(!log.segments.is_empty());
        let mut changed = log.clone();
        let last = changed.segments.0.len() - 1;
        let segment = &mut changed.segments.0[last];
        segment.digest = Digest::of(&more.to_be_bytes());
        prop_assert!(changed.verify().is_err());
        // Forged along with the event that names the segments, it is the chain that breaks.
        let place = changed.events.iter().rposition(|event| event.seals.is_some()).unwrap();
        changed.events[place].seals = Some(changed.segments.digest());
        changed.events[place].hash = changed.events[place].computed_hash();
        let seal = Seal { segments: changed.segments.clone(), ..log.proof() };
        prop_assert!(verify_log(&seal, &changed.events).is_err());
    }
}

#[test]
fn a_log_that_lost_its_beginning_does_not_verify_and_neither_does_what_is_sealed_of_it() {
    let mut log = Log::default();
    (0..6).for_each(|n| log.append(n));
    log.events.drain(..2);
    let error = log.verify().unwrap_err();
    assert_eq!(error.seq, 3, "{error}");
    log.seal(2);
    assert_eq!(log.verify().unwrap_err().seq, 3);
}

#[test]
fn a_break_in_the_chain_is_not_sealed_away() {
    let mut log = Log::default();
    (0..6).for_each(|n| log.append(n));
    log.events[2].message.push('!');
    log.seal(4);
    assert_eq!(log.segments.last().unwrap().gaps, 1);
    for _ in 0..2 * MAX_SEGMENTS {
        log.append(1);
        log.seal(2);
    }
    let error = log.verify().unwrap_err();
    assert!(error.to_string().contains("broken already"), "{error}");
}

#[test]
fn an_end_that_was_cut_off_is_found_by_the_head_that_is_kept_elsewhere() {
    let mut log = Log::default();
    (0..6).for_each(|n| log.append(n));
    let seal = log.proof();
    log.events.pop();
    assert_eq!(verify_log(&seal, &log.events).unwrap_err().seq, 6);
    // The anchor is written less often than the log: a head that is older is well.
    let older = Seal { anchored: Some(log.events[1].head()), ..Seal::default() };
    assert_eq!(verify_log(&older, &log.events).unwrap(), log.head());
}
