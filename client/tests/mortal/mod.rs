//! A kernel that dies and comes back: what it knows outlives it, what it has on its sockets doesn't.
//!
//! Each life has a budget of bytes, read and written together; when it is spent the life ends in the middle of whatever it
//! is, every connection with it, and the next one begins. What a life does before it dies stays done: processes that
//! were spawned, bytes that were written to a stdin, each noted so that a test can ask whether it happened once.

use bytes::BytesMut;
use kairo_wire::chunk::{Prelude, put_prelude};
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::{Envelope, Extras, put_bus, put_notice};
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{CutReason, EventCutRecord, StreamEndReason, StreamEndRecord, StreamGapRecord};
use kairo_wire::frame::Decoder;
use kairo_wire::id::{EventId, SubscriptionId};
use kairo_wire::methods::stream::StreamName;
use kairo_wire::{request, response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Reproducible numbers (SplitMix64).
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }
}

/// A process that writes what it was made to write.
#[derive(Clone, Default)]
pub(crate) struct Program {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// First byte that is still kept, of each stream.
    pub(crate) kept_from: [u64; 2],
    /// Which life of the id.
    pub(crate) session: u64,
    /// Its streams end, and it is waited for with this.
    pub(crate) exit: Option<i32>,
}

impl Program {
    fn output(&self, stream: StreamName) -> (&[u8], u64) {
        match stream {
            StreamName::Stdout => (&self.stdout, self.kept_from[0]),
            StreamName::Stderr => (&self.stderr, self.kept_from[1]),
        }
    }
}

/// What outlives a life.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) programs: BTreeMap<String, Program>,
    /// Receipts of spawns by key, and how often each id was really started.
    pub(crate) spawned: HashMap<String, Value>,
    pub(crate) starts: BTreeMap<String, u64>,
    /// What went into the stdin, and the offsets writes reached, by key.
    pub(crate) stdin: Vec<u8>,
    pub(crate) written: HashMap<String, u64>,
    /// Calls of every other method, as often as they came.
    pub(crate) calls: Vec<(String, Value)>,
    /// The last place in the log.
    pub(crate) events: u64,
    /// A subscription to events is cut before every place that this divides; 0 for never.
    pub(crate) cut_every: u64,
    pub(crate) lives: u64,
    /// Bytes each coming life may read and write; none left is no bound.
    pub(crate) budgets: Vec<u64>,
    /// It keeps keys and a log: a kernel of the release before doesn't.
    pub(crate) modern: bool,
    pub(crate) tokens: u64,
    pub(crate) names: u64,
    pub(crate) stopped: bool,
}

struct Shared {
    world: Mutex<World>,
    changed: Condvar,
    path: PathBuf,
}

/// One life.
struct Life {
    shared: Arc<Shared>,
    left: Mutex<Option<u64>>,
    sockets: Mutex<Vec<UnixStream>>,
    dead: Mutex<bool>,
}

pub(crate) struct Kernel {
    shared: Arc<Shared>,
    director: Option<JoinHandle<()>>,
    _folder: Option<tempfile::TempDir>,
}

impl Kernel {
    pub(crate) fn new(world: World) -> Kernel {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel.sock");
        let mut kernel = Kernel::at(&path, world);
        kernel._folder = Some(folder);
        kernel
    }

    /// One that listens there; it takes the socket away when it is dropped.
    pub(crate) fn at(path: &Path, world: World) -> Kernel {
        let path = path.to_path_buf();
        let shared = Arc::new(Shared { world: Mutex::new(world), changed: Condvar::new(), path });
        let listener = UnixListener::bind(&shared.path).unwrap();
        let director = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || direct(&shared, listener))
        };
        Kernel { shared, director: Some(director), _folder: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// Waits until the world is as it should be.
    pub(crate) fn until(&self, is_so: impl Fn(&World) -> bool) {
        let mut world = self.shared.world.lock().unwrap();
        while !is_so(&world) {
            world = self.shared.changed.wait(world).unwrap();
        }
    }

    /// Changes the world, and tells whoever waits for that.
    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world());
        self.shared.changed.notify_all();
    }

    /// Ends the life that is, at once: its next byte kills it, and one is made to come.
    pub(crate) fn kill(&self) {
        let lives = self.world().lives;
        self.change(|world| world.budgets.push(u64::MAX));
        // A byte is read as soon as it comes, and this connection's are worth a life.
        let mut deadly = UnixStream::connect(&self.shared.path).unwrap();
        let _ = deadly.write_all(DEADLY);
        self.until(|world| world.lives > lives);
    }
}

/// Bytes no client sends first.
const DEADLY: &[u8] = b"die now";

impl Drop for Kernel {
    fn drop(&mut self) {
        self.world().stopped = true;
        self.shared.changed.notify_all();
        let _ = UnixStream::connect(&self.shared.path).and_then(|mut deadly| deadly.write_all(DEADLY));
        if let Some(director) = self.director.take() {
            let _ = director.join();
        }
    }
}

/// One life after the other.
fn direct(shared: &Arc<Shared>, mut listener: UnixListener) {
    loop {
        let left = {
            let mut world = shared.world.lock().unwrap();
            world.lives += 1;
            let budgets = &mut world.budgets;
            if budgets.is_empty() { None } else { Some(budgets.remove(0)) }
        };
        shared.changed.notify_all();
        let life = Arc::new(Life {
            shared: Arc::clone(shared),
            left: Mutex::new(left.filter(|left| *left < u64::MAX)),
            sockets: Mutex::default(),
            dead: Mutex::new(false),
        });
        let mut threads = Vec::new();
        for accepted in listener.incoming() {
            let Ok(socket) = accepted else { break };
            if *life.dead.lock().unwrap() {
                break;
            }
            life.sockets.lock().unwrap().push(socket.try_clone().unwrap());
            let life = Arc::clone(&life);
            threads.push(std::thread::spawn(move || serve(&life, socket)));
        }
        drop(listener);
        for thread in threads {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&shared.path);
        if shared.world.lock().unwrap().stopped {
            return;
        }
        listener = UnixListener::bind(&shared.path).unwrap();
    }
}

impl Life {
    /// Takes from the budget; returns how much of it there was, and dies if that is less.
    fn spend(&self, bytes: usize) -> usize {
        let mut left = self.left.lock().unwrap();
        let Some(budget) = &mut *left else { return bytes };
        let granted = (bytes as u64).min(*budget);
        *budget -= granted;
        granted as usize
    }

    fn die(&self) {
        *self.left.lock().unwrap() = Some(0);
        if std::mem::replace(&mut *self.dead.lock().unwrap(), true) {
            return;
        }
        for socket in self.sockets.lock().unwrap().iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes whoever accepts.
        let _ = UnixStream::connect(&self.shared.path);
        // Whoever has looked already waits by now.
        drop(self.shared.world.lock().unwrap());
        self.shared.changed.notify_all();
    }

    fn is_dead(&self) -> bool {
        *self.dead.lock().unwrap()
    }
}

/// A connection's sending half.
#[derive(Clone)]
struct Sender {
    life: Arc<Life>,
    socket: Arc<Mutex<UnixStream>>,
}

impl Sender {
    /// False when the life is over, perhaps in the middle of this.
    fn send(&self, write: impl FnOnce(&mut BytesMut)) -> bool {
        let mut frame = BytesMut::new();
        write(&mut frame);
        let mut socket = self.socket.lock().unwrap();
        let granted = self.life.spend(frame.len());
        let sent = socket.write_all(&frame[..granted]).is_ok();
        drop(socket);
        if granted < frame.len() {
            self.life.die();
        }
        sent && granted == frame.len()
    }
}

fn serve(life: &Arc<Life>, mut socket: UnixStream) {
    let sender = Sender { life: Arc::clone(life), socket: Arc::new(Mutex::new(socket.try_clone().unwrap())) };
    let mut decoder = Decoder::new();
    let mut pumps = Vec::new();
    let mut bytes = vec![0; 4_096];
    let mut first = true;
    while !life.is_dead() {
        let read = socket.read(&mut bytes).unwrap_or(0);
        if read == 0 {
            break;
        }
        if std::mem::take(&mut first) && bytes.starts_with(DEADLY) {
            life.die();
            break;
        }
        let granted = life.spend(read);
        let mut asked = Vec::new();
        let fed = decoder.feed(&bytes[..granted], |_, payload| asked.push(payload.to_vec()));
        assert!(fed.is_ok(), "a client sends frames");
        for payload in asked {
            pumps.extend(answer(&sender, &payload));
        }
        if granted < read {
            life.die();
        }
    }
    let _ = socket.shutdown(Shutdown::Both);
    for pump in pumps {
        let _ = pump.join();
    }
}

fn value(raw: RawRef<'_>) -> Value {
    kairo_wire::json::to_value(raw).unwrap()
}

/// Answers a request; a subscription gets a thread.
fn answer(sender: &Sender, payload: &[u8]) -> Option<JoinHandle<()>> {
    let request = request::read(payload).unwrap();
    let key = request.meta().unwrap().idempotency_key.map(|key| key.to_string());
    let params = value(request.params);
    let id = request.id;
    let outcome = act(&sender.life.shared, &request.method, &params, key);
    let ok = |result: &Value| sender.send(|buf| response::put_ok(buf, Dialect::Int64, id, result));
    match outcome {
        Some(Ok(result)) if request.method == "process.stdout.subscribe" => {
            let named = result["subscriptionId"].as_str().unwrap().to_owned();
            if !ok(&result) {
                return None;
            }
            let (sender, params) = (sender.clone(), params.clone());
            Some(std::thread::spawn(move || pump(&sender, &named, &params)))
        }
        Some(Ok(result)) if request.method == "subscribe" => {
            let named = result["subscriptionId"].as_str().unwrap().to_owned();
            let next = params["fromSeq"].as_u64().or(result["nextSeq"].as_u64());
            if ok(&result) {
                let sender = sender.clone();
                return Some(std::thread::spawn(move || announce(&sender, &named, next)));
            }
            None
        }
        Some(Ok(result)) => {
            ok(&result);
            None
        }
        Some(Err(error)) => {
            sender.send(|buf| response::put_err(buf, Dialect::Int64, id, &error));
            None
        }
        None => {
            let (sender, id) = (sender.clone(), id.to_owned());
            let named = params["id"].as_str().unwrap().to_owned();
            Some(std::thread::spawn(move || {
                let Some(code) = exit_of(&sender, &named) else { return };
                let result = json!({ "status": "exited", "id": named, "exitCode": code });
                sender.send(|buf| response::put_ok(buf, Dialect::Int64, id.as_ref(), &result));
            }))
        }
    }
}

/// Waits for the exit of a process, or the end of the life.
fn exit_of(sender: &Sender, named: &str) -> Option<i32> {
    let shared = &sender.life.shared;
    let mut world = shared.world.lock().unwrap();
    loop {
        if sender.life.is_dead() || world.stopped {
            return None;
        }
        if let Some(code) = world.programs.get(named).and_then(|program| program.exit) {
            return Some(code);
        }
        world = shared.changed.wait(world).unwrap();
    }
}

/// Does what a call asks for; none if it waits for an exit.
fn act(
    shared: &Shared,
    method: &str,
    params: &Value,
    key: Option<String>,
) -> Option<Result<Value, WireError>> {
    let mut world = shared.world.lock().unwrap();
    let world = &mut *world;
    let id = params["id"].as_str().unwrap_or_default().to_owned();
    let not_found = || Err(WireError::process_not_found(&id));
    world.calls.push((method.to_owned(), params.clone()));
    let modern = world.modern;
    let outcome = match method {
        "kernel.hello" => Ok(hello(world, params)),
        "kernel.ping" => Ok(json!({ "pong": true })),
        "identify" => Ok(json!({ "status": "identified" })),
        "process.spawn" => Ok(match key.as_ref().and_then(|key| world.spawned.get(key)).filter(|_| modern) {
            Some(receipt) => receipt.clone(),
            None => {
                let receipt = json!({ "status": "spawned", "id": id, "pid": 100 + world.spawned.len() });
                *world.starts.entry(id).or_default() += 1;
                world.spawned.extend(key.map(|key| (key, receipt.clone())));
                receipt
            }
        }),
        "process.stdin.write" => {
            let data = params["data"].as_str().unwrap().as_bytes().to_vec();
            let known = key.as_ref().and_then(|key| world.written.get(key)).copied();
            let offset = known.unwrap_or_else(|| {
                world.stdin.extend_from_slice(&data);
                world.stdin.len() as u64
            });
            world.written.extend(key.map(|key| (key, offset)));
            Ok(json!({ "status": "written", "id": id, "offset": offset }))
        }
        "process.wait" if world.programs.contains_key(&id) => return None,
        "process.wait" => not_found(),
        "process.status" => Ok(json!({ "state": "running", "pid": 7 })),
        "process.kill" => Ok(json!({ "status": "killed", "id": id })),
        "subscribe" => {
            world.names += 1;
            let name = format!("topic_{}", world.names);
            Ok(match modern {
                true => json!({ "subscriptionId": name, "nextSeq": world.events + 1 }),
                false => json!({ "subscriptionId": name }),
            })
        }
        "process.stdout.subscribe" => {
            let program = world.programs.get(&id);
            match (program, params.get("resumes")) {
                (None, Some(_)) => not_found(),
                (program, _) => {
                    let from = match &params["from"] {
                        Value::Object(_) => params["from"].clone(),
                        Value::Number(at) => json!({ "stdout": at, "stderr": at }),
                        _ => json!({ "stdout": 0, "stderr": 0 }),
                    };
                    world.names += 1;
                    let name = format!("stream_{}", world.names);
                    Ok(match program {
                        Some(program) => json!({
                            "subscriptionId": name, "session": format!("{:016x}", program.session), "from": from,
                        }),
                        None => json!({ "subscriptionId": name }),
                    })
                }
            }
        }
        "process.stdout.unsubscribe" | "unsubscribe" => Ok(json!({ "ok": true })),
        other => Err(WireError::new(Code::UnknownMethod, other.to_owned())),
    };
    shared.changed.notify_all();
    Some(outcome)
}

fn hello(world: &mut World, params: &Value) -> Value {
    world.tokens += 1;
    let limits = json!({"frameBytesMax": 16 << 20, "chunkBytesMax": 1 << 20, "callsInFlightMax": 1024,
        "depthMax": 64, "elementsMax": 1_000_000});
    let token = if world.modern { format!("token-{}", world.tokens) } else { String::new() };
    let mut features: Vec<Value> = params["features"].as_array().unwrap().clone();
    features.retain(|feature| world.modern || feature != "envelope");
    json!({
        "name": "kairo", "version": "0.0.0", "protocol": 1, "pid": world.lives, "features": features,
        "limits": limits, "principal": {"kind": "owner", "uid": 0}, "connection": token,
    })
}

/// The events of the log from a place on, as they come, up to the end of the life or a cut; a kernel without a log begins with
/// one of the past, to have told something.
fn announce(sender: &Sender, named: &str, from: Option<u64>) {
    let shared = &sender.life.shared;
    let mut next = from.unwrap_or_else(|| shared.world.lock().unwrap().events);
    let begun = next;
    loop {
        let mut world = shared.world.lock().unwrap();
        while next > world.events && !sender.life.is_dead() && !world.stopped {
            world = shared.changed.wait(world).unwrap();
        }
        if sender.life.is_dead() || world.stopped {
            return;
        }
        let cut = world.cut_every > 0 && next > begun && next.is_multiple_of(world.cut_every);
        drop(world);
        let subscription_id = SubscriptionId::from_text(named);
        let sent = match cut {
            true => {
                let cut = EventCutRecord { subscription_id, seq: next, reason: CutReason::Slow };
                sender.send(|buf| put_notice(buf, Dialect::Int64, &cut).unwrap())
            }
            false => tell(sender, named, from.map(|_| next), next),
        };
        if cut || !sent {
            return;
        }
        next += 1;
    }
}

fn tell(sender: &Sender, named: &str, seq: Option<u64>, number: u64) -> bool {
    let id = EventId::new(number.into());
    let body = Raw::of(&json!({ "number": number })).expect("a value");
    let envelope = Envelope {
        topic: "kairo.process.spawned",
        payload: body.as_ref(),
        id: id.as_str(),
        source: "kernel",
        time_ms: 0,
        correlation_id: None,
        causation_id: None,
        trace_id: None,
    };
    let extras = seq.map(|seq| Extras {
        seq: Some(seq),
        principal: "kernel",
        subscription_id: Some(named),
        ..Extras::default()
    });
    sender.send(|buf| put_bus(buf, Dialect::Int64, &envelope, extras.as_ref()).unwrap())
}

/// Sends what a subscription asked for, in pieces of any size, both streams in turn, and their ends.
fn pump(sender: &Sender, named: &str, params: &Value) {
    let shared = &sender.life.shared;
    let id = params["id"].as_str().unwrap();
    let wanted = params.get("stream").and_then(Value::as_str).unwrap_or("both");
    let begin = |name: &str| match &params["from"] {
        Value::Object(offsets) => offsets[name].as_u64().unwrap(),
        Value::Number(at) => at.as_u64().unwrap(),
        _ => 0,
    };
    let mut dice = Dice(named.len() as u64 + shared.world.lock().unwrap().lives);
    let mut open: Vec<(StreamName, u64, u64)> = [StreamName::Stdout, StreamName::Stderr]
        .into_iter()
        .filter(|name| wanted == "both" || wanted == name.word())
        .map(|name| (name, begin(name.word()), 0))
        .collect();
    let mut sequence = 0;
    while !open.is_empty() {
        let place = dice.below(open.len() as u64) as usize;
        let (name, at, gaps) = open[place];
        let world = shared.world.lock().unwrap();
        let Some(program) = world.programs.get(id).cloned() else {
            if sender.life.is_dead() || world.stopped {
                return;
            }
            drop(shared.changed.wait(world).unwrap());
            continue;
        };
        drop(world);
        let (bytes, kept_from) = program.output(name);
        let subscription_id = SubscriptionId::from_text(named);
        if at < kept_from {
            let gap = StreamGapRecord { subscription_id, stream: name, from: at, to: kept_from };
            open[place] = (name, kept_from, gaps + kept_from - at);
            if !sender.send(|buf| put_notice(buf, Dialect::Int64, &gap).unwrap()) {
                return;
            }
        } else if at < bytes.len() as u64 {
            let end = (at as usize + 1 + dice.below(3_000) as usize).min(bytes.len());
            let data = &bytes[at as usize..end];
            sequence += 1;
            let prelude = Prelude {
                subscription_id: named,
                stream: name,
                sequence,
                offset: Some(at),
                time: None,
                partial: false,
            };
            open[place] = (name, end as u64, gaps);
            let whole = sender.send(|buf| {
                put_prelude(buf, Dialect::Int64, &prelude, data.len());
                buf.extend_from_slice(data);
            });
            if !whole {
                return;
            }
        } else {
            open.remove(place);
            let reason = StreamEndReason::Closed;
            let end =
                StreamEndRecord { subscription_id, stream: name, total_bytes: at, gap_bytes: gaps, reason };
            if !sender.send(|buf| put_notice(buf, Dialect::Int64, &end).unwrap()) {
                return;
            }
        }
    }
}
