//! Real use, short: the scenes of `cargo xtask soak`, each once on each driver, as root and as an ordinary user.

use crate::adoption::lives_on_both_drivers;
use crate::support::{Daemon, needs_root, on_both_drivers, program, reachable};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use xtask::soak::{Seen, Site, play, play_over_kills};

on_both_drivers!(
    a_video_is_encoded_hashed_spooled_and_read_by_whoever_comes_and_goes,
    a_video_is_relayed_to_all_of_them,
    a_tar_goes_through_a_compressor_and_by_a_tap,
    a_reader_that_sleeps_costs_no_memory_and_gets_everything,
);

/// A user of his own, so that his pipes are counted apart from those of other tests.
const STRANGER: u32 = 65533;

/// Plays a scene.
fn scene(daemon: &Daemon, name: &str) {
    daemon.starts_its_worker();
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (socket, folder) = (&daemon.socket, daemon.folder());
    let site = Site { socket, folder, tree, kernel: daemon.pid(), scale: 1, mortal: None };
    match play(name, &site, 0x5eed) {
        Ok(Seen::Bytes(bytes)) => assert!(bytes > 0),
        Ok(Seen::Lacks(program)) => println!("skipped, there is no {program}: {name}"),
        Err(wrong) => panic!("{name}: {wrong}"),
    }
}

fn a_video_is_encoded_hashed_spooled_and_read_by_whoever_comes_and_goes(daemon: &Daemon) {
    scene(daemon, "media");
}

fn a_video_is_relayed_to_all_of_them(daemon: &Daemon) {
    scene(daemon, "relayed");
}

fn a_tar_goes_through_a_compressor_and_by_a_tap(daemon: &Daemon) {
    scene(daemon, "archive");
}

fn a_reader_that_sleeps_costs_no_memory_and_gets_everything(daemon: &Daemon) {
    scene(daemon, "sleeper");
}

/// The same while the daemon dies every now and then.
mod killed {
    use super::*;

    lives_on_both_drivers!(
        a_video_goes_on_over_kills,
        a_relayed_video_goes_on_over_kills,
        a_tar_goes_on_over_kills,
        a_sleeper_goes_on_over_kills,
    );

    fn scene(daemon: &mut Daemon, name: &str) {
        daemon.starts_its_worker();
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (socket, folder) = (daemon.socket.clone(), daemon.folder().to_owned());
        let (socket, folder) = (socket.as_path(), folder.as_path());
        let site = Site { socket, folder, tree, kernel: daemon.pid(), scale: 1, mortal: None };
        let every = Duration::from_millis(200);
        let played = play_over_kills(name, &site, 0x5eed, every, || {
            daemon.kill_and_succeed();
            Ok(())
        });
        match played {
            Ok((Seen::Bytes(bytes), kills)) => assert!(bytes > 0 && kills > 0, "{bytes} over {kills} kills"),
            Ok((Seen::Lacks(program), _)) => println!("skipped, there is no {program}: {name}"),
            Err(wrong) => panic!("{name}: {wrong}"),
        }
    }

    fn a_video_goes_on_over_kills(daemon: &mut Daemon) {
        scene(daemon, "media");
    }

    fn a_relayed_video_goes_on_over_kills(daemon: &mut Daemon) {
        scene(daemon, "relayed");
    }

    fn a_tar_goes_on_over_kills(daemon: &mut Daemon) {
        scene(daemon, "archive");
    }

    fn a_sleeper_goes_on_over_kills(daemon: &mut Daemon) {
        scene(daemon, "sleeper");
    }
}

/// Where root runs the tests, the scenes are played by an ordinary user once more: his pipes have a budget.
#[test]
fn an_ordinary_user_has_all_of_it() {
    if !needs_root("an_ordinary_user_has_all_of_it") {
        return;
    }
    let own = reachable(&std::env::current_exe().expect("a running program has a path"));
    let mut command = Command::new(own);
    command.args(["soak::", "--skip", "an_ordinary_user", "--skip", "killed", "--test-threads", "2"]);
    command.env("KAIRO_UNDER_TEST", program()).env("HOME", "/").current_dir("/");
    let output = command.uid(STRANGER).gid(STRANGER).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("8 passed"), "{text}");
}
