//! Whoever reads: one thread for all processes that have an adapter, there exactly while there are some.
//!
//! ```text
//!   reactor ──Adapt──▶ inbox ─┐                        ┌─▶ Kernel::progress ──▶ kairo.process.progress
//!   kernel ──chunks──▶ client ┼─▶ this thread ─▶ parser ┘
//!   inotify ──names──▶ side  ─┘
//! ```
//!
//! It reads streams as a client of the kernel it lives in, from the oldest that is retained, with a policy that lets a slow
//! reader miss bytes: no child ever waits for a parser. What it finds it tells the kernel directly: no method leads there,
//! so nobody else can say it. Invariant: nothing a program writes ends the thread, or keeps it from the other programs.

use crate::adapters::catalogue::Catalogue;
use crate::adapters::declaration::{Declaration, Source};
use crate::adapters::parser::Parser;
use crate::adapters::progress::Progress;
use crate::adapters::side::{Found, Side, Watch};
use crate::kernel::connect_ourselves;
use kairo_client::{Client, ConnectOptions, Exits, Item, Lost, Subscription};
use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::command::{Adapt, Adapted, Commands};
use kairo_dataplane::plane::PlaneHandle;
use kairo_dataplane::sys::clock;
use kairo_wire::event::ProcessProgress;
use kairo_wire::methods::stream::{Policy, Rate, Selector, StreamName, SubscribeParams};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How long the socket is read at a time, once it has something.
const LISTEN: Duration = Duration::from_millis(1);
/// A program that floods is read at this rate, and the rest of it missed: reports are small.
const READ_RATE: Rate = Rate { bytes_per_second: 16 << 20, burst: None };
/// How often side files are looked at where nobody tells of changes.
const LOOK_MS: u64 = 200;

/// The way to the thread, and from it to the kernel.
#[derive(Debug)]
pub(crate) struct Host {
    catalogue: Arc<Catalogue>,
    kernel: OnceLock<(Arc<ControlPlane>, PlaneHandle)>,
    door: Mutex<Door>,
}

/// Where news come in.
#[derive(Debug, Default)]
struct Door {
    /// News from before there is a kernel to be read, in order.
    early: Vec<Adapt>,
    /// There exactly while the thread is.
    desk: Option<Desk>,
}

/// How the thread is reached.
#[derive(Debug)]
struct Desk {
    inbox: Sender<Adapt>,
    /// A byte in it is a reason to look at the inbox.
    bell: UnixStream,
}

impl Host {
    pub(crate) fn new(catalogue: Arc<Catalogue>) -> Arc<Host> {
        Arc::new(Host { catalogue, kernel: OnceLock::new(), door: Mutex::default() })
    }

    /// The kernel that is read and told.
    pub(crate) fn attach(self: &Arc<Host>, control: Arc<ControlPlane>, plane: PlaneHandle) {
        let mut door = self.door();
        // There is one kernel in a program.
        let _ = self.kernel.set((control, plane));
        for news in std::mem::take(&mut door.early) {
            self.pass(&mut door, news);
        }
    }

    /// Takes news of a process; the first of all starts the thread.
    pub(crate) fn take(self: &Arc<Host>, news: Adapt) {
        let mut door = self.door();
        match self.kernel.get() {
            Some(_) => self.pass(&mut door, news),
            None => door.early.push(news),
        }
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(self: &Arc<Host>, door: &mut Door, mut news: Adapt) {
        if let Some(Desk { inbox, bell }) = &mut door.desk {
            match inbox.send(news) {
                Ok(()) => {
                    // A bell that is full rings already.
                    let _ = bell.write(&[1]);
                    return;
                }
                // The thread has died of something.
                Err(back) => news = back.0,
            }
        }
        if matches!(news, Adapt::Begun(_)) {
            let begun = self.begin(news);
            door.desk = begun
                .inspect_err(|error| tracing::error!(component = "adapters", %error, "no program is read"))
                .ok();
        }
    }

    fn begin(self: &Arc<Host>, first: Adapt) -> io::Result<Desk> {
        let (inbox, news) = channel();
        // The receiver is here still.
        let _ = inbox.send(first);
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let host = Arc::clone(self);
        let work = move || {
            if let Err(error) = read_all(&host, news, heard) {
                // An ending kernel closes its connections, ours among them.
                tracing::debug!(component = "adapters", %error, "reading has ended");
            }
        };
        std::thread::Builder::new().name("adapters".to_owned()).spawn(work)?;
        Ok(Desk { inbox, bell })
    }
}

/// A process that is read.
#[derive(Debug)]
struct Reading {
    about: Adapted,
    parser: Parser,
    output: Option<Subscription>,
    side: Option<Side>,
    /// Its side file was looked at: from then on changes are told of.
    looked: bool,
    /// Its leader is gone.
    over: bool,
}

/// What the thread works with.
struct Reader<'a> {
    host: &'a Host,
    control: &'a ControlPlane,
    plane: &'a PlaneHandle,
    client: Client,
    exits: Exits,
    news: Receiver<Adapt>,
    watch: Option<Watch>,
    readings: BTreeMap<u64, Reading>,
}

fn read_all(host: &Host, news: Receiver<Adapt>, mut heard: UnixStream) -> anyhow::Result<()> {
    let Some((control, plane)) = host.kernel.get() else { return Ok(()) };
    let socket = connect_ourselves(plane)?;
    // The client reads one end whenever it is asked to; this one only tells that there is something to read.
    let ear = socket.try_clone()?;
    let options = ConnectOptions { reconnect: None, ..ConnectOptions::default() };
    let client = Client::over(socket, &options)?;
    // Told to every connection, so somebody has to take them; and who waits for them reads for all.
    let exits = client.exits();
    let (watch, readings) = (None, BTreeMap::new());
    let mut reader = Reader { host, control, plane, client, exits, news, watch, readings };
    let mut rung = [0; 64];
    loop {
        while heard.read(&mut rung).is_ok_and(|count| count > 0) {}
        reader.take_news();
        reader.listen()?;
        reader.read_outputs();
        reader.read_sides();
        reader.flush();
        if reader.retire() {
            return Ok(());
        }
        reader.wait(&ear, &heard)?;
    }
}

impl Reader<'_> {
    fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                Adapt::Begun(about) => self.begin(*about),
                Adapt::Over(process) => {
                    if let Some(reading) = self.readings.get_mut(&process.serial) {
                        reading.over = true;
                    }
                }
            }
        }
    }

    fn begin(&mut self, about: Adapted) {
        let Some(declaration) = self.host.catalogue.named(&about.adapter) else {
            // The configuration has changed since a former kernel.
            tracing::warn!(component = "adapters", processId = %about.id, adapter = about.adapter, "it is gone");
            return;
        };
        let output = selector(declaration, about.stderr).map(|stream| {
            self.client.subscribe(&SubscribeParams {
                id: Some(about.id.clone()),
                stream,
                policy: Policy::DropOldest,
                rate: Some(READ_RATE),
                ..SubscribeParams::default()
            })
        });
        let output = match output.transpose() {
            Ok(output) => output,
            Err(error) => {
                // An ending kernel closes its connections, ours among them.
                tracing::info!(component = "adapters", processId = %about.id, %error, "a process isn't read");
                None
            }
        };
        let mut parser = Parser::new(Arc::clone(declaration), about.started_ms);
        if about.resumed {
            // What is read first is old, and was told by the former kernel.
            parser.resume(now_ms());
        }
        let folder = self.host.catalogue.folder().filter(|_| declaration.source == Source::Side);
        let side = folder.map(|folder| {
            self.watch = self.watch.take().or_else(|| Watch::on(folder));
            Side::new(folder, &about.session, about.resumed)
        });
        let reading = Reading { parser, output, side, looked: false, over: false, about };
        self.readings.insert(reading.about.process.serial, reading);
    }

    /// Takes what the socket has, for all outputs.
    fn listen(&mut self) -> Result<(), Lost> {
        while self.exits.next_within(LISTEN)?.is_some() {}
        Ok(())
    }

    /// Parses what was taken. With no patience nothing is read here, so that what is there for one output isn't taken
    /// while another one's turn is over.
    fn read_outputs(&mut self) {
        let mut found = Vec::new();
        for reading in self.readings.values_mut() {
            while let Some(output) = reading.output.as_mut().filter(|output| !output.is_over()) {
                match output.next_within(Duration::ZERO) {
                    Ok(Some(item)) => parse(&mut reading.parser, reading.about.stderr, item, &mut found),
                    Ok(None) => break,
                    Err(error) => {
                        let id = &reading.about.id;
                        tracing::info!(component = "adapters", processId = %id, %error, "an output isn't read on");
                        reading.output = None;
                    }
                }
            }
            if reading.output.as_ref().is_some_and(Subscription::is_over) {
                reading.output = None;
            }
            publish(self.control, self.plane, &reading.about, found.drain(..));
        }
    }

    /// Reads the side files that have changed, and for the last time those of leaders that are gone.
    fn read_sides(&mut self) {
        let changed = self.watch.as_ref().and_then(Watch::changed);
        let mut found = Vec::new();
        for reading in self.readings.values_mut() {
            let Reading { about, parser, side: Some(side), over, looked, .. } = reading else { continue };
            let told =
                changed.as_ref().is_some_and(|names| !names.iter().any(|name| *name == *about.session));
            if told && !*over && std::mem::replace(looked, true) {
                continue;
            }
            let now = now_ms();
            let read = side.read(|piece| match piece {
                Found::Bytes(bytes) => parser.feed(Source::Side, bytes, now, &mut found),
                Found::Gap => parser.lose(Source::Side),
            });
            if let Err(error) = read {
                tracing::debug!(component = "adapters", processId = %about.id, %error, "a side file isn't read");
            }
            if *over {
                parser.end(Source::Side, now, &mut found);
                reading.side = None;
            }
            publish(self.control, self.plane, &reading.about, found.drain(..));
        }
    }

    /// Sends what was held back and is due.
    fn flush(&mut self) {
        let (now, mut found) = (now_ms(), Vec::new());
        for reading in self.readings.values_mut() {
            reading.parser.flush(now, &mut found);
            publish(self.control, self.plane, &reading.about, found.drain(..));
        }
    }

    /// Forgets what is over. True if that was all, and the desk is closed.
    fn retire(&mut self) -> bool {
        self.readings.retain(|_, reading| reading.output.is_some() || reading.side.is_some());
        if !self.readings.is_empty() {
            return false;
        }
        let mut door = self.host.door();
        // Whoever was at the door before us may have left something.
        match self.news.try_recv() {
            Ok(Adapt::Begun(about)) => {
                drop(door);
                self.begin(*about);
                false
            }
            Ok(Adapt::Over(_)) => false,
            Err(_) => {
                door.desk = None;
                true
            }
        }
    }

    /// Waits for bytes, changes, news, or until something is due.
    fn wait(&self, ear: &UnixStream, heard: &UnixStream) -> io::Result<()> {
        let now = now_ms();
        let due = self.readings.values().filter_map(|reading| reading.parser.due_ms());
        let unwatched = self.watch.is_none() && self.readings.values().any(|reading| reading.side.is_some());
        let due = due.chain(unwatched.then_some(now + LOOK_MS)).min();
        let patience = due.map(|due| {
            // A clock that is set back would have us wait for it; no pause between two events is longer.
            let ms = due.saturating_sub(now).clamp(1, 1_000);
            Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000) as i64 * 1_000_000 }
        });
        let mut waited = vec![PollFd::new(ear, PollFlags::IN), PollFd::new(heard, PollFlags::IN)];
        waited.extend(self.watch.as_ref().map(|watch| PollFd::new(watch.descriptor(), PollFlags::IN)));
        match poll(&mut waited, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Which outputs have to be read; none if all is said on the side. `stderr`: there is one of its own.
fn selector(declaration: &Declaration, stderr: bool) -> Option<Selector> {
    match (declaration.reads(Source::Stdout), declaration.reads(Source::Stderr), stderr) {
        (false, false, _) => None,
        (true, false, _) | (_, true, false) => Some(Selector::Stdout),
        (false, true, true) => Some(Selector::Stderr),
        (true, true, true) => Some(Selector::Both),
    }
}

/// What of a stream is which source: where there is one output it is both.
fn sources(stream: StreamName, stderr: bool) -> &'static [Source] {
    match (stream, stderr) {
        (StreamName::Stdout, true) => &[Source::Stdout],
        (StreamName::Stdout, false) => &[Source::Stdout, Source::Stderr],
        (StreamName::Stderr, _) => &[Source::Stderr],
    }
}

fn parse(parser: &mut Parser, stderr: bool, item: Item, found: &mut Vec<Progress>) {
    let now = now_ms();
    match item {
        Item::Chunk(chunk) => {
            sources(chunk.stream, stderr).iter().for_each(|s| parser.feed(*s, &chunk.data, now, found));
        }
        Item::Gap { stream, .. } => sources(stream, stderr).iter().for_each(|s| parser.lose(*s)),
        Item::End { stream, .. } => sources(stream, stderr).iter().for_each(|s| parser.end(*s, now, found)),
        // Only kernels without records say so, and this is not one.
        Item::Overflow => {}
    }
}

fn publish(
    control: &ControlPlane,
    plane: &PlaneHandle,
    about: &Adapted,
    found: impl Iterator<Item = Progress>,
) {
    for progress in found {
        let event = ProcessProgress {
            id: about.id.clone(),
            session: about.session.clone(),
            adapter: about.adapter.clone(),
            done: progress.done,
            total: progress.total,
            unit: progress.unit,
            rate: progress.rate,
            eta_ms: progress.eta_ms,
            percent: progress.percent,
            raw: progress.raw,
            broken_lines: progress.broken_lines,
        };
        let mut out = Commands::default();
        control.with(|kernel| kernel.progress(clock::now(), about.process, &event, &mut out));
        plane.carry_out(out);
    }
}

fn now_ms() -> u64 {
    clock::now().wall_ns / 1_000_000
}
