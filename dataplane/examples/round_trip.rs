//! How long a message takes there and back: through each driver, and through bare blocking calls beside it.
//!
//! ```text
//! cargo run --release -p kairo-dataplane --example round_trip [ROUNDS] [DEPTH]
//! ```
//!
//! The client is another process that writes DEPTH messages of 64 bytes and reads as many back. Medians of p50, in
//! nanoseconds, with both on one core and on two. Variants take turns, so that the machine's moods hit all alike.
//! `preferred` is io_uring where there is one.

use kairo_dataplane::driver::handle::Handle;
use kairo_dataplane::driver::op::{Answer, Interest, Op};
use kairo_dataplane::driver::poll::Poll;
use kairo_dataplane::driver::token::Token;
use kairo_dataplane::driver::{Driver, Preferred};
use kairo_dataplane::sys::socket;
use std::error::Error;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

const MESSAGE_BYTES: usize = 64;
const TURNS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| match arguments.get(at) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    if arguments.first().is_some_and(|first| first == "client") {
        let p50 = client(number(1, 0)?, number(2, 1)?, number(3, 0)?)?;
        println!("{p50}");
        return Ok(());
    }
    let (rounds, depth) = (number(0, 50_000)?, number(1, 1)?);
    let only = arguments.get(2);
    let cores = std::thread::available_parallelism()?.get();
    for (place, client_core) in [("same core", 0), ("other core", 1 % cores)] {
        let mut results: Vec<(&str, Vec<u64>, Vec<u64>)> = Vec::new();
        for _ in 0..TURNS {
            for (name, serve) in SERVERS {
                if only.is_some_and(|only| only != name) {
                    continue;
                }
                let (p50, busy) = measure(serve, rounds, depth, client_core)?;
                match results.iter_mut().find(|(seen, ..)| *seen == name) {
                    Some((_, p50s, busies)) => {
                        p50s.push(p50);
                        busies.push(busy);
                    }
                    None => results.push((name, vec![p50], vec![busy])),
                }
            }
        }
        let bare = results.first_mut().map_or(1, |(_, p50s, _)| median(p50s));
        for (name, mut p50s, mut busies) in results {
            let (p50, busy) = (median(&mut p50s), median(&mut busies));
            let ratio = p50 as f64 / bare as f64;
            println!("{place:>10}  {name:<10} {p50:>7} ns  {ratio:.2} x  server busy {busy:>6} ns a round");
        }
    }
    Ok(())
}

type Serve = fn(OwnedFd) -> io::Result<()>;

const SERVERS: [(&str, Serve); 3] = [
    ("bare", bare),
    ("poll", |fd| through(Poll::new()?, fd)),
    ("preferred", |fd| through(Preferred::new().map_err(io::Error::other)?, fd)),
];

fn measure(
    serve: Serve,
    rounds: usize,
    depth: usize,
    client_core: usize,
) -> Result<(u64, u64), Box<dyn Error>> {
    let (here, there) = socket::stream_pair(false)?;
    let client = Command::new(std::env::current_exe()?)
        .args(["client", &rounds.to_string(), &depth.to_string(), &client_core.to_string()])
        .stdin(Stdio::from(there))
        .stdout(Stdio::piped())
        .spawn()?;
    pin(0)?;
    let before = busy_ns();
    serve(here)?;
    let busy = (busy_ns() - before) / rounds as u64;
    let output = client.wait_with_output()?;
    Ok((String::from_utf8(output.stdout)?.trim().parse()?, busy))
}

/// Time this thread has had a core.
fn busy_ns() -> u64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64
}

fn bare(fd: OwnedFd) -> io::Result<()> {
    let mut stream = UnixStream::from(fd);
    let mut bytes = vec![0; 65_536];
    loop {
        let len = stream.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..len])?;
    }
}

/// A reactor's loop with nothing in it.
fn through<D: Driver<Fd = Handle>>(mut driver: D, fd: OwnedFd) -> io::Result<()> {
    let (receive, writable) = (Token::new(1, 0, 0), Token::new(2, 0, 0));
    let connection = Handle::from(fd);
    let mut answers = Vec::new();
    let mut unsent: Vec<u8> = Vec::new();
    driver.submit(receive, Op::Receive(connection.clone()));
    loop {
        driver.wait(None, &mut answers)?;
        for completion in answers.drain(..) {
            match completion.answer {
                Answer::Received(lent) => {
                    unsent.extend_from_slice(driver.lent(&lent));
                    driver.give_back(lent);
                    driver.submit(receive, Op::Receive(connection.clone()));
                }
                Answer::Ready => {}
                Answer::Eof => return Ok(()),
                other => return Err(io::Error::other(format!("{other:?}"))),
            }
        }
        match driver.send(&connection, &[IoSlice::new(&unsent)]) {
            Ok(sent) => {
                unsent.drain(..sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                driver.submit(writable, Op::Poll(connection.clone(), Interest::Write));
            }
            Err(error) => return Err(error),
        }
    }
}

fn client(rounds: usize, depth: usize, core: usize) -> io::Result<u64> {
    pin(core)?;
    let mut stream = UnixStream::from(rustix::io::dup(rustix::stdio::stdin())?);
    let mut bytes = vec![7; MESSAGE_BYTES * depth];
    let mut figures = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        figures.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(median(&mut figures))
}

fn median(figures: &mut [u64]) -> u64 {
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied().unwrap_or(0)
}

fn pin(core: usize) -> io::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &cores)?)
}
