//! The invariants of the tables, walked whole: for tests and simulations, after every step.
//!
//! Each arrow of the picture in [`state`](crate::state) must have both its ends.

use crate::intents::cancelling::Step;
use crate::intents::members::Member;
use crate::intents::{Past, Stage};
use crate::kernel::Kernel;
use crate::sessions::wards::Guardian;
use crate::state::{Awaited, Named, Pending, Phase, Place, Process, TopicPlace, Way};
use std::collections::{BTreeMap, BTreeSet};

impl Kernel {
    /// What is broken, a sentence each; empty when all is well. Takes time in proportion to everything there is.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut hold = |what: bool, sentence: &str, of: u64| {
            if !what {
                broken.push(format!("{sentence} ({of})"));
            }
        };
        self.check_calls(&mut hold);
        self.check_processes(&mut hold);
        self.check_joined(&mut hold);
        self.check_promises(&mut hold);
        self.check_subscriptions(&mut hold);
        self.check_consumers(&mut hold);
        self.check_timers(&mut hold);
        self.check_intents(&mut hold);
        self.check_members(&mut hold);
        self.check_quotas(&mut hold);
        let permissions = &self.permissions;
        hold(
            permissions.grants.is_whole(),
            "the indexes of grants are wrong",
            permissions.grants.len() as u64,
        );
        hold(permissions.requests.is_whole(), "the indexes of requests are wrong", 0);
        let noted: usize = self.state.connections.iter().map(|peer| peer.names.len()).sum();
        hold(
            noted == permissions.known.count(),
            "a name is noted of a connection that is gone",
            noted as u64,
        );
        broken
    }

    /// Connections, calls somebody waits for, processes, subscriptions and timers there are.
    pub fn census(&self) -> [usize; 5] {
        let state = &self.state;
        let subscriptions = state.streams.len()
            + state.topics.len()
            + state.consumers.attachments.len()
            + state.watches.len();
        [
            state.connections.iter().count(),
            state.calls.values().filter(|call| !call.headless).count(),
            state.processes.len(),
            subscriptions,
            state.timers.len(),
        ]
    }

    fn check_calls(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        let mut listed = 0;
        for peer in state.connections.iter() {
            listed += peer.calls.len();
            for ticket in &peer.calls {
                let own = state.calls.get(ticket).is_some_and(|call| call.connection == peer.key);
                hold(own, "a connection lists a call that is not its own", *ticket);
            }
            let calls = peer.calls.iter().filter_map(|ticket| state.calls.get(ticket));
            let parked: usize = calls.map(|call| call.parked_bytes()).sum();
            hold(parked == peer.parked_bytes, "the parked bytes are miscounted", parked as u64);
            let greeted = peer.greeted == state.audience.contains(&peer.key);
            hold(greeted, "the audience is not exactly the greeted", u64::from(peer.key.slot));
            let waits = !peer.calls.is_empty() || !peer.topics.is_empty() || !peer.attached.is_empty();
            let idle = peer.half_closed && !waits;
            let listens = peer.streams.iter().filter_map(|s| state.streams.get(s)).any(|s| s.is_live());
            hold(peer.closing || !idle || listens, "a half-closed connection waits for nothing", 0);
        }
        for (event, request) in &state.requests {
            let waits = state.calls.get(&request.call).map(|call| &call.pending);
            let waits = matches!(waits, Some(Pending::Request { event: of, .. }) if of == event);
            hold(waits, "a request is open for nobody", request.call);
        }
        let headless = state.calls.values().filter(|call| call.headless).count();
        hold(listed + headless == state.calls.len(), "a call is in no connection's list", listed as u64);
        for (ticket, _) in state.calls.iter().filter(|(_, call)| call.headless) {
            hold(self.flight_of(*ticket).is_some(), "a call goes on for nobody and nothing", *ticket);
        }
        self.check_receipts(hold);
        for connection in &state.audience {
            hold(state.connections.get(*connection).is_some(), "the audience holds a gone connection", 0);
        }
        for (ticket, call) in &state.calls {
            let process = |serial: &u64| state.processes.get(serial);
            let kept = match &call.pending {
                Pending::Spawn { process: p } => process(p).is_some_and(|p| p.spawning.contains(ticket)),
                Pending::Reuse { holder, .. } => process(holder).is_some_and(|p| p.heirs.contains(ticket)),
                Pending::Wait { process: p, .. } => process(p).is_some_and(|p| p.waits.contains(ticket)),
                Pending::Deed { process: p, sent: false, .. } => {
                    process(p).is_some_and(|p| p.deferred.contains(ticket) && p.phase == Phase::Starting)
                }
                Pending::Pipeline { pipeline, .. } => state.pipelines.is_waited_for(*pipeline, *ticket),
                Pending::Deed { sent: true, .. }
                | Pending::Metrics
                | Pending::Usage { .. }
                | Pending::Published
                | Pending::Compaction { .. }
                | Pending::Replay { .. }
                | Pending::Open { .. }
                | Pending::Changes { .. }
                | Pending::Watch { .. } => true,
                Pending::Request { event, .. } => {
                    state.requests.get(event).is_some_and(|request| request.call == *ticket)
                }
                Pending::Decision { request: None, .. } => true,
                Pending::Decision { request: Some(id), .. } => {
                    self.permissions.requests.get(id).is_some_and(|request| request.waiting.contains(ticket))
                }
                Pending::Repeat { name } => {
                    self.receipts.flight(*name).is_some_and(|flight| flight.waiting.contains(ticket))
                }
                Pending::Cancelling { cancel } => {
                    state.intents.cancels.get(cancel).is_some_and(|cancel| cancel.callers.contains(ticket))
                }
            };
            hold(kept, "a call waits for a process that does not know it", *ticket);
        }
    }

    fn check_receipts(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        for (name, flight) in self.receipts.flights() {
            let own = state.calls.get(&flight.call).and_then(|call| call.claim);
            hold(own.is_some_and(|own| own.name == name), "what is in flight is nobody's call", flight.call);
            for ticket in &flight.waiting {
                let waits = state.calls.get(ticket).map(|call| &call.pending);
                let waits = matches!(waits, Some(Pending::Repeat { name: of }) if *of == name);
                hold(waits, "a repetition is answered and still waits", *ticket);
            }
        }
        hold(self.receipts.are_whole(), "the receipts are miscounted", self.receipts.count() as u64);
    }

    fn check_processes(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        for (key, serial) in &state.names {
            let process = state.processes.get(serial);
            let named = process.is_some_and(|p| p.id.key() == **key && !p.superseded);
            hold(named, "an id names a process that is not its own", *serial);
        }
        for (session, serial) in &state.sessions {
            let process = state.processes.get(serial);
            hold(
                process.is_some_and(|p| p.session.as_str() == &**session),
                "a session names no process",
                *serial,
            );
        }
        for (pid, serial) in &state.leaders {
            let leads = |p: &Process| p.phase == Phase::Running && p.pid as u64 == *pid;
            hold(state.processes.get(serial).is_some_and(|p| leads(p)), "a leader does not run", *serial);
        }
        for (serial, process) in &state.processes {
            let named = state.names.get(process.id.key().as_ref()) == Some(serial);
            hold(named != process.superseded, "a process is neither named nor superseded", *serial);
            let tickets = process.waits.iter().chain(&process.deferred).chain(&process.heirs);
            let alive = tickets.chain(&process.spawning).all(|ticket| state.calls.contains_key(ticket));
            hold(alive, "a process keeps a call that is answered", *serial);
            let over = process.is_over() && !process.superseded;
            let retained =
                process.retained_ns.is_some_and(|since| state.retained.contains(&(since, *serial)));
            hold(over == retained, "the retained records are not exactly those that are over", *serial);
            let read = process.superseded && process.is_over() && process.readers.is_empty();
            hold(!read, "a superseded record outlives its readers", *serial);
            let waits = process.waits.is_empty() || matches!(process.phase, Phase::Starting | Phase::Running);
            hold(waits, "a call waits for an exit that has been", *serial);
            let waits = !process.awaits_another() || (process.tree_gone && !process.superseded);
            hold(waits, "a life waits behind one that is not over", *serial);
            let dying = process.killing.is_none() || !process.tree_gone;
            hold(dying, "a kill has nobody left", *serial);
            let started = process.spawning.is_empty() || process.phase == Phase::Starting || process.flushing;
            hold(started, "a spawn waits for a process that has run", *serial);
        }
        hold(
            state.retained.is_empty() || state.retention.is_some(),
            "nobody watches the retained records",
            0,
        );
    }

    /// Pipelines and their stages know each other, and those who are fed whom by.
    fn check_joined(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        for (serial, process) in &state.processes {
            for target in &process.wired.feeds {
                let fed = state.processes.get(target).and_then(|target| target.source());
                hold(fed == Some(*serial), "a process feeds one that is fed by another", *serial);
            }
            let listed = process.wired.stage.is_none_or(|of| {
                let stage = state.pipelines.get(of.pipeline).and_then(|p| p.stages.get(of.index));
                stage.is_some_and(|stage| stage.process == Some(*serial))
            });
            hold(listed, "a stage is of no pipeline", *serial);
        }
        for (serial, pipeline) in state.pipelines.iter() {
            let stages = || pipeline.stages.iter().filter_map(|stage| stage.process);
            let of = |process| state.processes.get(&process).and_then(|process| process.wired.stage);
            let known = stages().all(|process| of(process).is_some_and(|of| of.pipeline == serial));
            hold(known && stages().next().is_some(), "a pipeline has stages that are not its own", serial);
            let calls = pipeline.calls.iter().all(|ticket| state.calls.contains_key(ticket));
            hold(calls, "a pipeline keeps a call that is answered", serial);
        }
    }

    /// Guardians know their wards, each way.
    fn check_promises(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        for (serial, process) in &state.processes {
            let known = match process.guardian {
                Some(Guardian::Present(key)) => {
                    state.connections.get(key).is_some_and(|peer| peer.wards.contains(serial))
                }
                Some(Guardian::Orphaned { digest, .. }) => state.orphans.contains(&(digest, *serial)),
                Some(Guardian::Gone) | None => true,
            };
            hold(known, "a guardian does not know its ward", *serial);
        }
        for (digest, serial) in &state.orphans {
            let guardian = state.processes.get(serial).and_then(|process| process.guardian);
            let orphaned = matches!(guardian, Some(Guardian::Orphaned { digest: of, .. }) if of == *digest);
            hold(orphaned, "an orphan has its guardian", *serial);
        }
        for peer in state.connections.iter() {
            for serial in &peer.wards {
                let guardian = state.processes.get(serial).and_then(|process| process.guardian);
                hold(guardian == Some(Guardian::Present(peer.key)), "a ward has another guardian", *serial);
            }
        }
    }

    fn check_subscriptions(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        for (serial, stream) in &state.streams {
            let peer = state.connections.get(stream.connection);
            hold(
                stream.outlives.is_some() || peer.is_some_and(|p| p.streams.contains(serial)),
                "a subscription has no connection",
                *serial,
            );
            let named = state.subscriptions.get(stream.id.as_str()) == Some(&Named::Stream(*serial));
            hold(named, "a subscription has lost its name", *serial);
            let waiting = state.waiting.get(stream.target.key().as_ref()).is_some_and(|w| w.contains(serial));
            let reads = match &stream.place {
                Place::Reading { key, process, .. } => {
                    let known = state.reading.get(&key.serial) == Some(serial);
                    known && state.processes.get(process).is_some_and(|p| p.readers.contains(serial))
                }
                Place::Waiting { .. } | Place::Following { .. } => waiting,
            };
            hold(reads, "a subscription stands nowhere", *serial);
            hold(waiting != matches!(stream.place, Place::Reading { .. }), "a reader waits", *serial);
            let follows = peer.is_some_and(|p| p.following.contains(serial));
            hold(
                follows == matches!(stream.place, Place::Following { .. }),
                "a follower is not known",
                *serial,
            );
        }
        for serial in state.reading.values().chain(state.waiting.values().flatten()) {
            hold(state.streams.contains_key(serial), "a list holds a gone subscription", *serial);
        }
        for (serial, topic) in &state.topics {
            let peer = state.connections.get(topic.connection);
            hold(peer.is_some_and(|p| p.topics.contains(serial)), "a topic has no connection", *serial);
        }
        for (serial, watch) in &state.watches {
            let peer = state.connections.get(watch.connection);
            hold(peer.is_some_and(|p| p.topics.contains(serial)), "a watch has no connection", *serial);
            let asked = watch.asked.is_none_or(|ticket| state.pages.get(&ticket) == Some(serial));
            hold(asked, "a watch waits for nothing", *serial);
        }
        let names = state.streams.len()
            + state.topics.len()
            + state.consumers.attachments.len()
            + state.watches.len();
        hold(state.subscriptions.len() == names, "there are more names than subscriptions", names as u64);
        for (serial, inlet) in &state.inlets {
            let listed = match &inlet.way {
                Way::Of(key) => state.connections.get(*key).is_some_and(|p| p.inlets.contains(serial)),
                Way::Outlives(_) => true,
            };
            hold(listed, "a way in has no connection", *serial);
        }
        for peer in state.connections.iter() {
            let leads = |serial: &u64| {
                let way = state.inlets.get(serial).map(|inlet| &inlet.way);
                matches!(way, Some(Way::Of(key)) if *key == peer.key)
            };
            hold(peer.inlets.iter().all(leads), "a connection has a way in that is another's", 0);
            let waits = |serial: &&u64| {
                let stream = state.streams.get(serial);
                stream.is_some_and(|stream| matches!(stream.place, Place::Waiting { .. }))
            };
            hold(peer.waiting == peer.streams.iter().filter(waits).count(), "the waiting are miscounted", 0);
        }
    }

    /// Consumers and those who are attached know each other, and every event is on the lists it belongs on.
    fn check_consumers(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let consumers = &self.state.consumers;
        for (serial, consumer) in &consumers.all {
            hold(consumer.is_whole(), "the deliveries of a consumer are miscounted", *serial);
            let named = consumers.named(consumer.creator.uid, &consumer.name);
            hold(named.is_some_and(|(of, _)| of == *serial), "a consumer has lost its name", *serial);
            for attachment in &consumer.attached {
                let own = consumers.attachments.get(attachment).is_some_and(|of| of.consumer == *serial);
                hold(own, "a consumer delivers to nobody", *attachment);
            }
            let asked = consumer.asked.is_none_or(|(ticket, _)| consumers.asked.get(&ticket) == Some(serial));
            hold(asked, "a consumer waits for a page that nobody asked for", *serial);
            let lives = !consumer.live || !consumer.attached.is_empty();
            hold(lives, "a consumer is told for nobody", *serial);
        }
        hold(consumers.names.len() == consumers.all.len(), "a name has no consumer", 0);
        for (serial, attachment) in &consumers.attachments {
            let of = consumers.all.get(&attachment.consumer);
            let known = of.is_some_and(|consumer| consumer.attached.contains(serial));
            let peer = self.state.connections.get(attachment.connection);
            let held = peer.is_some_and(|peer| peer.attached.contains(serial));
            hold(known && held, "an attachment has lost an end", *serial);
        }
    }

    fn check_timers(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        let mut wanted = BTreeSet::new();
        wanted.extend(state.retention.map(|timer| (timer.serial, "retention")));
        for call in state.calls.values() {
            wanted.extend(call.deadline.map(|timer| (timer.serial, "deadline")));
            match &call.pending {
                Pending::Reuse { timer, .. }
                | Pending::Changes { timer: Some(timer), .. }
                | Pending::Wait { timer: Some(timer), .. }
                | Pending::Pipeline { what: Awaited::End { timer: Some(timer) }, .. }
                | Pending::Decision { timer: Some(timer), .. }
                | Pending::Request { timer: Some(timer), .. } => {
                    wanted.insert((timer.serial, "patience"));
                }
                Pending::Wait { timer: None, .. }
                | Pending::Pipeline { .. }
                | Pending::Request { timer: None, .. }
                | Pending::Decision { timer: None, .. }
                | Pending::Spawn { .. }
                | Pending::Deed { .. }
                | Pending::Metrics
                | Pending::Usage { .. }
                | Pending::Published
                | Pending::Compaction { .. }
                | Pending::Repeat { .. }
                | Pending::Cancelling { .. }
                | Pending::Replay { .. }
                | Pending::Open { .. }
                | Pending::Changes { timer: None, .. }
                | Pending::Watch { .. } => {}
            }
        }
        wanted.extend(self.quotas.telling.map(|timer| (timer.serial, "refusals")));
        wanted.extend(self.permissions.expiry.map(|(timer, _)| (timer.serial, "grants")));
        wanted.extend(self.permissions.patience.map(|(timer, _)| (timer.serial, "requests")));
        wanted.extend(self.agents.expiry.map(|(timer, _)| (timer.serial, "agents")));
        self.intent_timers(&mut wanted);
        for process in state.processes.values() {
            let timer = process.killing.as_ref().and_then(|killing| killing.timer);
            wanted.extend(timer.map(|timer| (timer.serial, "grace")));
            if let Some(Guardian::Orphaned { timer: Some(timer), .. }) = process.guardian {
                wanted.insert((timer.serial, "orphan"));
            }
            wanted.extend(process.written.timer.map(|timer| (timer.serial, "written")));
            let pending = process.renewal.as_ref().and_then(|renewal| renewal.pending);
            wanted.extend(pending.map(|pending| (pending.timer.serial, "restart")));
        }
        for consumer in state.consumers.all.values() {
            wanted.extend(consumer.timer.map(|(timer, _)| (timer.serial, "consumer")));
        }
        for topic in state.topics.values() {
            if let TopicPlace::Behind { timer, .. } = topic.place {
                wanted.insert((timer.serial, "slow"));
            }
        }
        for stream in state.streams.values() {
            if let Place::Waiting { timer } = &stream.place {
                wanted.insert((timer.serial, "waiting"));
            }
        }
        let there: BTreeSet<(u64, &str)> =
            state.timers.iter().map(|(serial, timer)| (*serial, timer.word())).collect();
        // The retention timer may outlive the record it was armed for: it then finds nothing and is armed no more.
        for (serial, _) in there.symmetric_difference(&wanted) {
            hold(false, "a timer is armed for nobody, or somebody waits for none", *serial);
        }
    }

    /// Intents have their places, and what is over has nothing open under it.
    fn check_intents(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let intents = &self.state.intents;
        let mut open: BTreeMap<u32, usize> = BTreeMap::new();
        for (serial, intent) in &intents.all {
            let named = intents.names.get(intent.id.as_str()) == Some(serial);
            hold(
                named && intents.by_seq.get(&intent.seq) == Some(serial),
                "an intent has lost its name",
                *serial,
            );
            let parent = intent.parent.and_then(|parent| intents.all.get(&parent));
            hold(parent.is_some() == intent.parent.is_some(), "an intent's parent is forgotten", *serial);
            if let Some(parent) = parent {
                let child = parent.children.contains(serial) != intent.is_over();
                hold(child && parent.family.contains(serial), "a parent does not know its child", *serial);
                hold(parent.seq < intent.seq, "a child began before its parent", *serial);
                hold(parent.depth < intent.depth, "a child is not deeper than its parent", *serial);
            }
            let known =
                |child: &u64| intents.all.get(child).is_some_and(|child| child.parent == Some(*serial));
            hold(intent.children.is_subset(&intent.family), "a child is in no family", *serial);
            hold(intent.family.iter().all(known), "a family has a stranger", *serial);
            let cancelled = matches!(intent.stage, Stage::Cancelling) == intents.cancels.contains_key(serial);
            hold(cancelled, "an intent that is being cancelled has no cancel, or another has one", *serial);
            let listed = intents.over.contains(&Past::Intent(*serial)) == intent.is_over();
            hold(listed, "what is over is not remembered, or what is open is", *serial);
            let rid = intent.guardian.is_none() && intent.registered.is_empty() && intent.children.is_empty();
            hold(!intent.is_over() || rid, "an intent that is over is still watched", *serial);
            if !intent.is_over() {
                *open.entry(intent.creator.uid).or_default() += 1;
            }
            for connection in intent.registered.keys() {
                let peer = self.state.connections.get(*connection);
                let knows = peer.is_some_and(|peer| peer.registered.contains(serial));
                hold(knows, "a registered connection does not know it", *serial);
            }
            let guarded = match intent.guardian {
                Some(Guardian::Present(key)) => {
                    self.state.connections.get(key).is_some_and(|peer| peer.intents.contains(serial))
                }
                Some(Guardian::Orphaned { digest, .. }) => intents.orphans.contains(&(digest, *serial)),
                Some(Guardian::Gone) | None => true,
            };
            hold(guarded, "a guardian does not know its intent", *serial);
        }
        hold(open == intents.open, "the open intents are miscounted", 0);
        hold(intents.names.len() == intents.all.len(), "there are more names than intents", 0);
        self.check_cancels(hold);
    }

    /// Who watches over intents knows them, and a cancel goes on until it is over.
    fn check_cancels(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let intents = &self.state.intents;
        for peer in self.state.connections.iter() {
            let guards = |serial: &u64| intents.all.get(serial).map(|intent| intent.guardian);
            let own = |serial: &u64| guards(serial) == Some(Some(Guardian::Present(peer.key)));
            hold(peer.intents.iter().all(own), "an intent has another guardian", 0);
            let told = |serial: &u64| {
                intents.all.get(serial).is_some_and(|intent| intent.registered.contains_key(&peer.key))
            };
            hold(peer.registered.iter().all(told), "a connection is registered for what does not know it", 0);
        }
        for (serial, cancel) in &intents.cancels {
            hold(
                cancel.callers.iter().all(|call| self.state.calls.contains_key(call)),
                "a caller is gone",
                *serial,
            );
            let open = |of: &u64| intents.all.get(of).is_some_and(|intent| !intent.is_over());
            hold(cancel.intents.iter().all(open), "a cancel waits for what is over", *serial);
            let steps = !cancel.walked && cancel.hold.is_none();
            let to_do = intents.steps.iter().any(|step| matches!(step, Step::Members(of, _) if of == serial));
            hold(!steps || to_do, "a cancel has stopped half way", *serial);
        }
        hold(
            intents.steps.is_empty() == intents.walker.is_none(),
            "nobody works off what lies on the stack",
            0,
        );
    }

    /// What is there is in the lists it names, and nothing else is.
    fn check_members(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let state = &self.state;
        let mut wanted: [BTreeSet<(&str, Member)>; 2] = Default::default();
        let note = |member: Member, intent: Option<&'_ str>, story: Option<&'_ str>| {
            [intent, story].map(|name| name.map(|name| (name.to_owned(), member)))
        };
        let mut found: [BTreeSet<(String, Member)>; 2] = Default::default();
        let mut put = |places: [Option<(String, Member)>; 2]| {
            for (set, place) in found.iter_mut().zip(places) {
                set.extend(place);
            }
        };
        for (serial, process) in state.processes.iter().filter(|(_, process)| process.is_member()) {
            let trace = &process.trace;
            put(note(Member::Process(*serial), trace.intent.as_deref(), trace.correlation.as_deref()));
        }
        let calls = state.calls.iter().map(|(ticket, call)| (Member::Call(*ticket), &call.under));
        let streams = state.streams.iter().map(|(serial, of)| (Member::Stream(*serial), &of.under));
        let topics = state.topics.iter().map(|(serial, of)| (Member::Topic(*serial), &of.under));
        let inlets = state.inlets.iter().map(|(serial, of)| (Member::Inlet(*serial), &of.under));
        for (member, under) in calls.chain(streams).chain(topics).chain(inlets) {
            let Some(under) = under else { continue };
            put(note(member, under.intent.as_deref(), under.story.as_deref()));
        }
        for (serial, intent) in state.intents.all.iter().filter(|(_, intent)| !intent.is_over()) {
            put(note(Member::Intent(*serial), None, Some(&intent.correlation)));
        }
        for (lists, wanted) in
            [&state.intents.of_intent, &state.intents.of_story].into_iter().zip(&mut wanted)
        {
            for (name, list) in lists {
                hold(!list.is_empty(), "a list is empty", 0);
                wanted.extend(list.iter().map(|member| (&**name, *member)));
            }
        }
        for (listed, found) in wanted.iter().zip(&found) {
            let found: BTreeSet<(&str, Member)> =
                found.iter().map(|(name, member)| (&**name, *member)).collect();
            for (_, member) in listed.symmetric_difference(&found) {
                let what = "something is in a list it does not name, or not in one it names";
                hold(false, what, member.serial());
            }
        }
    }

    fn intent_timers(&self, wanted: &mut BTreeSet<(u64, &'static str)>) {
        let intents = &self.state.intents;
        for intent in intents.all.values() {
            let deadline = intent.deadline.and_then(|(_, timer)| timer);
            wanted.extend(deadline.map(|timer| (timer.serial, "intent's deadline")));
            if let Some(Guardian::Orphaned { timer: Some(timer), .. }) = intent.guardian {
                wanted.insert((timer.serial, "intent's orphan"));
            }
        }
        for cancel in intents.cancels.values() {
            wanted.extend(cancel.hold.map(|timer| (timer.serial, "hold")));
            wanted.extend(cancel.patience.map(|timer| (timer.serial, "patience with a cancel")));
        }
        wanted.extend(intents.walker.map(|timer| (timer.serial, "walk")));
    }
}
