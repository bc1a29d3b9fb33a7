//! The main job on real input: one ffmpeg's raw frames to two subscribers at once, and the proof that they agree.
//!
//! ```text
//!  clip.mp4 ─▶ ffmpeg (decodes) ─stdout─▶ kernel ─▶ subscriber 1: SHA-256
//!                     │                      └────▶ subscriber 2 ─stdin─▶ ffmpeg (encodes, lossless) ─▶ again.mkv
//!                     └─stderr (-progress) ─▶ kernel ─▶ subscriber 3: the bar you see
//! ```
//!
//! Both ffmpegs run under a `kairo serve` of this program's own. At the end the frames are hashed at four places:
//! as subscriber 1 saw them, as the lossless copy decodes to, as ffmpeg writes them into a plain pipe, and as a
//! shell's `tee` hands them to the same two consumers. Run it with `scripts/demo`.

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kairo_client::{Client, DirectItem};
use kairo_wire::codec::data::Data;
use kairo_wire::codec::text::OsText;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::SpawnOptions;
use kairo_wire::methods::process::{
    Spawn, SpawnParams, StdinClose, StdinWrite, StdinWriteParams, TargetParams, Wait, WaitParams,
};
use kairo_wire::methods::stream::{Mode, Selector, SubscribeParams};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WIDTH: u64 = 1280;
const HEIGHT: u64 = 720;
const RATE: u64 = 30;
const SECONDS: u64 = 6;
const FRAMES: u64 = RATE * SECONDS;
/// 4:2:0: a byte of brightness for each pixel, and half as many of colour.
const FRAME_BYTES: u64 = WIDTH * HEIGHT * 3 / 2;
const PIPE_BYTES: u32 = 1 << 20;

fn main() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("kairo-first-job-").tempdir()?;
    let (clip, copy) = (folder.path().join("clip.mp4"), folder.path().join("again.mkv"));
    println!("making a clip of {SECONDS} s, {WIDTH}x{HEIGHT} at {RATE} frames a second, with sound");
    make_clip(&clip)?;
    let daemon = Daemon::start(folder.path())?;
    println!("streaming its frames through the kernel: one reader hashes, one encodes them again");
    let kernel = through_kernel(&daemon, &clip, &copy)?;
    println!("the same through a shell: tee, a fifo and sha256sum");
    let shell = through_shell(folder.path(), &clip)?;
    let direct = hash_of(&clip)?;
    let again = hash_of(&copy)?;
    report(&kernel, &shell, &direct, &again)
}

/// What a way of doing it came to.
struct Outcome {
    hash: String,
    /// Bytes the hashing reader saw, bytes the encoder was given, bytes the stream says it had.
    hashed: u64,
    given: u64,
    said: u64,
    /// Lines of progress the decoder wrote on its stderr.
    updates: u64,
    took: Duration,
}

fn report(kernel: &Outcome, shell: &Outcome, direct: &str, again: &str) -> Result<()> {
    let expected = FRAMES * FRAME_BYTES;
    println!();
    println!("  frames       {FRAMES} of {FRAME_BYTES} bytes, {expected} in all");
    println!("  stream says  {} bytes", kernel.said);
    println!("  reader 1     {} bytes, SHA-256 {}", kernel.hashed, kernel.hash);
    println!("  reader 2     {} bytes given to the encoder", kernel.given);
    println!("  its copy     decodes to   SHA-256 {again}");
    println!("  plain pipe   ffmpeg alone SHA-256 {direct}");
    println!("  shell        tee          SHA-256 {}", shell.hash);
    println!("  progress     {} updates from ffmpeg's stderr", kernel.updates);
    let rate = |took: Duration| expected as f64 / 1e6 / took.as_secs_f64();
    let (ours, theirs) = (rate(kernel.took), rate(shell.took));
    println!("  rate         {ours:.0} MB/s, the shell's pipes {theirs:.0} MB/s: {:.2} x", ours / theirs);
    ensure!(kernel.said == expected, "the stream should have had {expected} bytes");
    ensure!(kernel.hashed == expected && kernel.given == expected, "a reader missed bytes");
    ensure!(kernel.hash == direct, "what came through the kernel is not what ffmpeg writes");
    ensure!(kernel.hash == shell.hash, "what came through the kernel is not what the shell's pipes carry");
    ensure!(kernel.hash == again, "the lossless copy is not what was sent");
    println!("\nevery byte agrees, end to end");
    Ok(())
}

/// ffmpeg with what all its runs have in common.
fn ffmpeg(arguments: &[&str]) -> Vec<String> {
    ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y"]
        .iter()
        .chain(arguments)
        .map(|word| (*word).to_owned())
        .collect()
}

fn command(argv: &[String]) -> Command {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null());
    command
}

fn make_clip(clip: &Path) -> Result<()> {
    let video = format!("testsrc2=s={WIDTH}x{HEIGHT}:r={RATE}:d={SECONDS}");
    let sound = format!("sine=f=440:d={SECONDS}");
    let inputs = ["-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", &sound];
    let coding =
        ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", path(clip)?];
    let status =
        command(&ffmpeg(&[&inputs[..], &coding].concat())).status().context("ffmpeg is not installed")?;
    ensure!(status.success(), "ffmpeg made no clip: {status}");
    Ok(())
}

/// Decodes a file to raw frames on stdout.
fn decoder(file: &Path, more: &[&str]) -> Result<Vec<String>> {
    let tail = ["-i", path(file)?, "-an", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"];
    Ok(ffmpeg(&[more, &tail].concat()))
}

/// Encodes raw frames from stdin, without loss.
fn encoder(file: &Path) -> Result<Vec<String>> {
    let (size, rate) = (format!("{WIDTH}x{HEIGHT}"), RATE.to_string());
    let input = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", &rate, "-i", "pipe:0"];
    let coding = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", path(file)?];
    Ok(ffmpeg(&[&input[..], &coding].concat()))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary folder's name is not text")
}

/// The hash of what ffmpeg decodes a file to, through nothing but a pipe.
fn hash_of(file: &Path) -> Result<String> {
    let mut child = command(&decoder(file, &[])?).stdout(Stdio::piped()).spawn()?;
    let mut hash = Sha256::new();
    std::io::copy(&mut child.stdout.take().context("stdout is piped")?, &mut hash)?;
    ensure!(child.wait()?.success(), "ffmpeg could not decode {}", file.display());
    Ok(format!("{:x}", hash.finalize()))
}

fn through_kernel(daemon: &Daemon, clip: &Path, copy: &Path) -> Result<Outcome> {
    let control = Client::connect(&daemon.socket)?;
    let options = || SpawnOptions { pipe_bytes: Some(PIPE_BYTES), ..SpawnOptions::default() };
    let spawn = |name: &str, argv: &[String]| -> Result<()> {
        let command = argv.iter().map(|word| OsText::from(word.as_str())).collect();
        control.call::<Spawn>(&SpawnParams { id: id(name)?, command, options: Some(Box::new(options())) })?;
        Ok(())
    };
    spawn("encode", &encoder(copy)?)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let hashing = scope.spawn(|| hash_stream(daemon));
        let feeding = scope.spawn(|| feed_encoder(daemon));
        let watching = scope.spawn(|| watch_progress(daemon));
        // Subscriptions wait for their process: who comes first doesn't matter, everybody gets all of it.
        spawn("decode", &decoder(clip, &["-progress", "pipe:2", "-nostats", "-stats_period", "0.1"])?)?;
        let (hash, hashed, said) =
            hashing.join().map_err(|_| anyhow::anyhow!("the hashing reader failed"))??;
        let given = feeding.join().map_err(|_| anyhow::anyhow!("the feeding reader failed"))??;
        let updates = watching.join().map_err(|_| anyhow::anyhow!("the watching reader failed"))??;
        for name in ["decode", "encode"] {
            let exit = control.call::<Wait>(&WaitParams { id: id(name)?, timeout_ms: None })?;
            ensure!(exit.exit_code == 0, "{name} ended with {}", exit.exit_code);
        }
        Ok(Outcome { hash, hashed, given, said, updates, took: begun.elapsed() })
    })
}

fn id(name: &str) -> Result<ProcessId> {
    ProcessId::from_text(name).map_err(anyhow::Error::msg)
}

fn reading(stream: Selector, mode: Mode) -> Result<SubscribeParams> {
    Ok(SubscribeParams { id: Some(id("decode")?), stream, mode, ..SubscribeParams::default() })
}

/// Subscriber 1: hash, bytes seen, bytes the stream had.
fn hash_stream(daemon: &Daemon) -> Result<(String, u64, u64)> {
    let client = Client::connect(&daemon.socket)?;
    let mut stream = client.into_stream(&reading(Selector::Stdout, Mode::Chunk)?)?;
    let (mut hash, mut hashed, mut said) = (Sha256::new(), 0, 0);
    while let Some(item) = stream.next_item()? {
        match item {
            DirectItem::Chunk { data, .. } => {
                hash.update(data);
                hashed += data.len() as u64;
            }
            DirectItem::End { total_bytes, .. } => said = total_bytes,
            DirectItem::LeaderExited { .. } => {}
            missed => bail!("a reader that is waited for missed something: {missed:?}"),
        }
    }
    Ok((format!("{:x}", hash.finalize()), hashed, said))
}

/// Subscriber 2: writes what it reads to the encoder's stdin. Bytes given.
fn feed_encoder(daemon: &Daemon) -> Result<u64> {
    let encoder = Client::connect(&daemon.socket)?;
    let client = Client::connect(&daemon.socket)?;
    let mut stream = client.into_stream(&reading(Selector::Stdout, Mode::Chunk)?)?;
    let mut given = 0;
    while let Some(item) = stream.next_item()? {
        match item {
            DirectItem::Chunk { data, .. } => {
                let data = Data(bytes::Bytes::copy_from_slice(data));
                // The answer comes when the bytes are in the encoder's pipe: a slow encoder slows the decoder.
                given = encoder.call::<StdinWrite>(&StdinWriteParams { id: id("encode")?, data })?.offset;
            }
            DirectItem::End { .. } => {}
            DirectItem::LeaderExited { .. } => {}
            missed => bail!("a reader that is waited for missed something: {missed:?}"),
        }
    }
    encoder.call::<StdinClose>(&TargetParams { id: id("encode")? })?;
    Ok(given)
}

/// Subscriber 3: ffmpeg's own account of how far it is, as a bar. Updates seen.
fn watch_progress(daemon: &Daemon) -> Result<u64> {
    let bar = ProgressBar::new(FRAMES);
    bar.set_style(ProgressStyle::with_template("  {bar:40} frame {pos}/{len}  {msg}")?);
    let client = Client::connect(&daemon.socket)?;
    let mut stream = client.into_stream(&reading(Selector::Stderr, Mode::Line)?)?;
    let mut updates = 0;
    while let Some(item) = stream.next_item()? {
        let DirectItem::Chunk { data, .. } = item else { continue };
        let line = String::from_utf8_lossy(data);
        let Some((key, value)) = line.trim().split_once('=') else { bail!("ffmpeg: {}", line.trim()) };
        match key {
            "frame" => bar.set_position(value.trim().parse()?),
            "speed" => bar.set_message(format!("{} of real time", value.trim())),
            "progress" => {
                updates += 1;
                if !std::io::stderr().is_terminal() {
                    println!("  frame {}/{FRAMES}", bar.position());
                }
            }
            _ => {}
        }
    }
    bar.finish();
    Ok(updates)
}

/// What a shell would do: the same two consumers behind `tee`.
fn through_shell(folder: &Path, clip: &Path) -> Result<Outcome> {
    let quote = |argv: Vec<String>| argv.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let decode = quote(decoder(clip, &[])?);
    let encode = quote(encoder(&folder.join("shell.mkv"))?);
    let script = format!("mkfifo fifo; {encode} < fifo & {decode} | tee fifo | sha256sum; wait $!");
    let begun = Instant::now();
    let output =
        Command::new("sh").args(["-ec", &script]).current_dir(folder).stdin(Stdio::null()).output()?;
    let took = begun.elapsed();
    ensure!(output.status.success(), "the shell's way failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let hash = text.split_whitespace().next().context("sha256sum prints a hash")?.to_owned();
    let total = FRAMES * FRAME_BYTES;
    Ok(Outcome { hash, hashed: total, given: total, said: total, updates: 0, took })
}

/// A `kairo serve` of our own; ends with this value.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(folder: &Path) -> Result<Daemon> {
        let own = std::env::current_exe()?;
        let program =
            own.ancestors().nth(2).context("an example lies in a folder of the target folder")?.join("kairo");
        ensure!(program.exists(), "build the program first: cargo build --release");
        let socket = folder.join("kernel.sock");
        let mut command = Command::new(program);
        command.arg("serve").arg("--socket").arg(&socket).arg("--state").arg(folder.join("state"));
        let mut child =
            command.args(["--log", "warn"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        println!("{}", line.trim());
        Ok(Daemon { child, socket })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM ends it in order; there is no call for it in the standard library, so the client asks.
        let asked = Client::connect(&self.socket).map(|client| {
            client.call::<kairo_wire::methods::system::Shutdown>(
                &kairo_wire::methods::system::ShutdownParams { grace_ms: Some(1_000) },
            )
        });
        if !matches!(asked, Ok(Ok(_))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
