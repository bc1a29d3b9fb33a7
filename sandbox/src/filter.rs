//! System call filters: rules as data, compiled to the kernel's classic BPF (seccomp(2)).
//!
//! What is refused, and why, is in `filters/*.json`, one group a file, one rule a line, with the call's number on each
//! architecture. A program looks at the architecture first and kills what isn't its own (a 32-bit entry on a 64-bit
//! kernel has other numbers), refuses the numbers of x32, and then finds the call by halving. Arguments are compared in
//! their lower 32 bits, which is all the kernel reads of those we look at.
//!
//! Invariant: with the same groups and architecture the same program, so its digest says what was in force.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

macro_rules! groups {
    ($($(#[doc = $doc:literal])+ $variant:ident = $bit:literal, $file:literal;)+) => {
        /// Rules that are in a filter or not, together.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Group {
            $($(#[doc = $doc])+ $variant = 1 << $bit,)+
        }

        impl Group {
            /// All.
            pub const ALL: &[Group] = &[$(Group::$variant,)+];

            /// As its file is called.
            pub fn name(self) -> &'static str {
                match self { $(Group::$variant => $file,)+ }
            }

            fn text(self) -> &'static str {
                match self { $(Group::$variant => include_str!(concat!("filters/", $file, ".json")),)+ }
            }
        }
    };
}

groups! {
    /// Calls no contained program needs.
    SystemCalls = 0, "system-calls";
    /// Other processes.
    Ptrace = 1, "ptrace";
    /// Sockets that aren't plain unix, TCP or UDP.
    Families = 2, "socket-families";
    /// No network.
    NoNetwork = 3, "no-network";
    /// No UDP.
    NoUdp = 4, "no-udp";
    /// No unix sockets.
    NoUnixSockets = 5, "no-unix-sockets";
    /// Ways around Landlock's ports.
    Ports = 6, "ports";
    /// No listening.
    NoListening = 7, "no-listening";
    /// The terminal.
    Terminal = 8, "terminal";
    /// No changes of modes, owners and attributes.
    NoMetadata = 9, "no-metadata";
}

impl Group {
    /// What would let through what it refuses.
    pub fn hint(self) -> &'static str {
        match self {
            Group::SystemCalls => "no grant: the protection systemCalls would have to be off",
            Group::Ptrace => "processes.ptrace: \"inside\"",
            Group::Families => "no grant: the protections network and unixSockets would have to be off",
            Group::NoNetwork => "network.connect: [PORT]",
            Group::NoUdp => "network.udp: true",
            Group::NoUnixSockets => "unixSockets.any: true",
            Group::Ports => "no grant: the protection ports would have to be off",
            Group::NoListening => "network.bind: [PORT]",
            Group::Terminal => "no grant: the protection terminal would have to be off",
            Group::NoMetadata => "files.metadata: true",
        }
    }
}

/// Some groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Groups(u32);

impl Groups {
    /// These as well.
    pub fn insert(&mut self, group: Group) {
        self.0 |= group as u32;
    }

    /// Whether these are in.
    pub fn has(self, group: Group) -> bool {
        self.0 & group as u32 != 0
    }

    /// Every one there is.
    pub fn all() -> Groups {
        let mut all = Groups::default();
        Group::ALL.iter().for_each(|group| all.insert(*group));
        all
    }

    /// True exactly when there is nothing to filter.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Whose numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// AMD64.
    X86_64,
    /// ARM, 64 bits.
    Aarch64,
}

impl Architecture {
    /// This program's; none if there are no filters for it.
    pub fn own() -> Option<Architecture> {
        if cfg!(target_arch = "x86_64") {
            Some(Architecture::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Architecture::Aarch64)
        } else {
            None
        }
    }

    /// AUDIT_ARCH_* of linux/audit.h.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xC000_003E,
            Architecture::Aarch64 => 0xC000_00B7,
        }
    }
}

/// One instruction, in the layout of linux/filter.h's `sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// A filter the kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// At most [`INSTRUCTIONS_MAX`].
    pub instructions: Vec<Instruction>,
}

/// BPF_MAXINSNS.
pub const INSTRUCTIONS_MAX: usize = 4_096;

/// A rule, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// For people; the number counts.
    call: String,
    x86_64: Option<u32>,
    aarch64: Option<u32>,
    /// All of them must be true; none for always.
    #[serde(default)]
    when: Vec<Test>,
    errno: Errno,
    #[expect(dead_code, reason = "for whoever reads the file")]
    why: String,
}

/// A look at an argument.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Test {
    arg: u32,
    mask: Option<u32>,
    is: Option<u32>,
    is_not: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Errno {
    #[serde(rename = "EPERM")]
    Perm = 1,
    #[serde(rename = "EACCES")]
    Acces = 13,
    #[serde(rename = "ENOSYS")]
    Nosys = 38,
}

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
// linux/seccomp.h
const ALLOW: u32 = 0x7FFF_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Numbers of x32 have this bit (__X32_SYSCALL_BIT).
const X32: u32 = 0x4000_0000;
/// Calls compared one after the other before a range is halved: the kernel translates each filter for each child, so few
/// instructions count for more than few steps; what is always allowed it doesn't ask the filter about.
const RUN: usize = 8;
/// As far as a conditional jump reaches.
const REACH: usize = u8::MAX as usize;

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, value }
}

fn jump(code: u16, value: u32, if_true: usize, if_false: usize) -> Instruction {
    // Blocks are a few rules long: the tests compile the largest there can be.
    debug_assert!(if_true.max(if_false) <= REACH, "a jump over {if_true} or {if_false}");
    Instruction { code, if_true: if_true as u8, if_false: if_false as u8, value }
}

/// A filter of some groups. Fails only if a rule file of ours is broken, which its tests rule out.
pub fn compile(groups: Groups, architecture: Architecture) -> Result<Program, serde_json::Error> {
    compile_some(groups, architecture, |_| true)
}

/// The same without what every program asks for and is told doesn't exist, so that nobody is told of that: what is refused
/// by both filters is refused, and logged, by the one that was installed last.
pub fn compile_loud(groups: Groups, architecture: Architecture) -> Result<Program, serde_json::Error> {
    compile_some(groups, architecture, |rule| rule.errno != Errno::Nosys)
}

fn compile_some(
    groups: Groups,
    architecture: Architecture,
    wanted: impl Fn(&Rule) -> bool,
) -> Result<Program, serde_json::Error> {
    let mut calls: BTreeMap<u32, Verdict> = BTreeMap::new();
    for group in Group::ALL.iter().filter(|group| groups.has(**group)) {
        let rules: Vec<Rule> = serde_json::from_str(group.text())?;
        for rule in rules.into_iter().filter(&wanted) {
            let number = rule.number(architecture);
            if let Some(number) = number {
                calls.entry(number).or_default().narrow(&rule);
            }
        }
    }
    let calls: Vec<(u32, Verdict)> = calls.into_iter().collect();
    let mut instructions = vec![
        plain(LOAD, ARCHITECTURE),
        jump(JUMP_EQUAL, architecture.audit(), 1, 0),
        plain(RETURN, KILL_PROCESS),
        plain(LOAD, NUMBER),
    ];
    if architecture == Architecture::X86_64 {
        instructions.push(jump(JUMP_AT_LEAST, X32, 0, 1));
        instructions.push(plain(RETURN, ERRNO | Errno::Nosys as u32));
    }
    instructions.extend(search(&calls));
    Ok(Program { instructions })
}

/// A rule that refuses a call, at least with some arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The call's name.
    pub call: String,
    /// The rule's group.
    pub group: Group,
}

/// Every rule of some groups that refuses the call of this number.
pub fn refusals(groups: Groups, architecture: Architecture, number: u32) -> Vec<Refused> {
    let of_group = |group: &Group| {
        let rules: Vec<Rule> = serde_json::from_str(group.text()).unwrap_or_default();
        let meant = rules.into_iter().filter(move |rule| rule.number(architecture) == Some(number));
        let group = *group;
        meant.map(move |rule| Refused { call: rule.call, group })
    };
    Group::ALL.iter().filter(|group| groups.has(**group)).flat_map(of_group).collect()
}

impl Rule {
    fn number(&self, architecture: Architecture) -> Option<u32> {
        match architecture {
            Architecture::X86_64 => self.x86_64,
            Architecture::Aarch64 => self.aarch64,
        }
    }
}

/// What is done about one call.
#[derive(Debug, Default)]
struct Verdict {
    /// Refuses it under some conditions, else goes on behind.
    tests: Vec<Instruction>,
    /// What is answered where none of them are met; none to allow it.
    refused: Option<Errno>,
}

impl Verdict {
    /// The rules of a call refuse it one after the other; the first without a condition is the last that is met.
    fn narrow(&mut self, rule: &Rule) {
        match self.refused {
            Some(_) => {}
            None if rule.when.is_empty() => self.refused = Some(rule.errno),
            None => self.tests.extend(tested(rule)),
        }
    }

    fn answer(&self) -> u32 {
        self.refused.map_or(ALLOW, |errno| ERRNO | errno as u32)
    }
}

/// Finds the call by halving; expects its number in the accumulator.
fn search(calls: &[(u32, Verdict)]) -> Vec<Instruction> {
    if calls.len() <= RUN {
        return compare(calls);
    }
    let (low, high) = calls.split_at(calls.len() / 2);
    let (below, above) = (search(low), search(high));
    let mut found = match below.len() {
        near @ ..=REACH => vec![jump(JUMP_AT_LEAST, high[0].0, near, 0)],
        far => vec![jump(JUMP_AT_LEAST, high[0].0, 0, 1), plain(JUMP, far as u32)],
    };
    found.extend(below);
    found.extend(above);
    found
}

/// Compares with one call after the other: a comparison for each, then an answer for all that have the same, then the tests.
fn compare(calls: &[(u32, Verdict)]) -> Vec<Instruction> {
    let mut behind = vec![plain(RETURN, ALLOW)];
    let mut found = Vec::new();
    // Those with the shortest tests first, so that all are within reach.
    let mut tested: Vec<&(u32, Verdict)> =
        calls.iter().filter(|(_, verdict)| !verdict.tests.is_empty()).collect();
    tested.sort_by_key(|(_, verdict)| verdict.tests.len());
    let outright = calls.iter().filter(|(_, verdict)| verdict.tests.is_empty());
    for (place, (number, verdict)) in outright.chain(tested).enumerate() {
        let answer = plain(RETURN, verdict.answer());
        let known = behind.iter().position(|instruction| *instruction == answer);
        let target = match known.filter(|_| verdict.tests.is_empty()) {
            Some(known) => known,
            None => {
                behind.extend(&verdict.tests);
                behind.push(answer);
                behind.len() - 1 - verdict.tests.len()
            }
        };
        found.push(jump(JUMP_EQUAL, *number, calls.len() - 1 - place + target, 0));
    }
    found.extend(behind);
    found
}

/// Refuses if all its tests are true, else goes on behind.
fn tested(rule: &Rule) -> Vec<Instruction> {
    let mut block = vec![plain(RETURN, ERRNO | rule.errno as u32)];
    for test in rule.when.iter().rev() {
        let rest = block.len();
        let mut looked = vec![plain(LOAD, ARGUMENTS + 8 * test.arg)];
        looked.extend(test.mask.map(|mask| plain(AND, mask)));
        looked.extend(test.is.map(|value| jump(JUMP_EQUAL, value, 0, rest)));
        looked.extend(test.is_not.map(|value| jump(JUMP_EQUAL, value, rest, 0)));
        block.splice(0..0, looked);
    }
    block
}

impl Program {
    /// SHA-256 of the program as the kernel gets it, in hexadecimal.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for Instruction { code, if_true, if_false, value } in &self.instructions {
            digest.update(code.to_le_bytes());
            digest.update([*if_true, *if_false]);
            digest.update(value.to_le_bytes());
        }
        hexadecimal(&digest.finalize())
    }
}

/// As digests are shown.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHITECTURES: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

    /// What the kernel would do.
    fn run(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => architecture,
            _ => arguments[(offset - ARGUMENTS) as usize / 8] as u32,
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, value } = program.instructions[at];
            at += 1;
            match code {
                LOAD => accumulator = load(value),
                AND => accumulator &= value,
                JUMP => at += value as usize,
                JUMP_EQUAL => at += usize::from(if accumulator == value { if_true } else { if_false }),
                JUMP_AT_LEAST => at += usize::from(if accumulator >= value { if_true } else { if_false }),
                RETURN => return value,
                other => panic!("code {other:#x}"),
            }
        }
    }

    fn of(groups: &[Group]) -> Groups {
        let mut all = Groups::default();
        groups.iter().for_each(|group| all.insert(*group));
        all
    }

    fn socket(groups: &[Group], arguments: [u64; 3]) -> bool {
        let program = compile(of(groups), Architecture::X86_64).unwrap();
        let [family, kind, protocol] = arguments;
        let verdict = run(&program, 0xC000_003E, 41, [family, kind, protocol, 0, 0, 0]);
        assert!([ALLOW, ERRNO | 13].contains(&verdict), "{verdict:#x}");
        verdict == ALLOW
    }

    #[test]
    fn every_rule_is_sound_and_refuses_what_it_names() {
        for group in Group::ALL {
            let rules: Vec<Rule> = serde_json::from_str(group.text()).unwrap();
            for rule in &rules {
                assert!(rule.x86_64.or(rule.aarch64).is_some());
                assert!(
                    rule.when.iter().all(|test| test.arg < 6 && test.is.is_some() != test.is_not.is_some())
                );
            }
            for (architecture, number) in ARCHITECTURES.into_iter().flat_map(|architecture| {
                let numbers =
                    rules.iter().filter(|rule| rule.when.is_empty()).map(move |rule| match architecture {
                        Architecture::X86_64 => rule.x86_64,
                        Architecture::Aarch64 => rule.aarch64,
                    });
                numbers.flatten().map(move |number| (architecture, number)).collect::<Vec<_>>()
            }) {
                let with = compile(of(&[*group]), architecture).unwrap();
                assert_eq!(run(&with, architecture.audit(), number, [0; 6]) & 0xFFFF_0000, ERRNO);
                let others: Vec<Group> = Group::ALL.iter().copied().filter(|other| other != group).collect();
                let without = compile(of(&others), architecture).unwrap();
                assert_eq!(run(&without, architecture.audit(), number, [0; 6]), ALLOW, "{group:?} {number}");
            }
        }
    }

    #[test]
    fn every_jump_is_within_reach_and_the_largest_filter_within_bounds() {
        for architecture in ARCHITECTURES {
            let program = compile(of(Group::ALL), architecture).unwrap();
            let length = program.instructions.len();
            assert!(length < 320, "{length}");
            for (at, instruction) in program.instructions.iter().enumerate() {
                let furthest = match instruction.code {
                    JUMP => instruction.value as usize,
                    _ => usize::from(instruction.if_true.max(instruction.if_false)),
                };
                assert!(at + furthest < length);
            }
            // A block that were too long would have been cut to eight bits.
            let rules: Vec<Rule> = Group::ALL
                .iter()
                .flat_map(|group| serde_json::from_str::<Vec<Rule>>(group.text()).unwrap())
                .collect();
            let sockets = rules.iter().filter(|rule| rule.x86_64 == Some(41)).flat_map(tested).count();
            assert!(sockets < 255, "{sockets}");
        }
    }

    #[test]
    fn another_architecture_is_killed_and_x32_does_not_exist() {
        for architecture in ARCHITECTURES {
            let program = compile(of(&[Group::SystemCalls]), architecture).unwrap();
            // AUDIT_ARCH_I386 and AUDIT_ARCH_ARM, by way of int 0x80 and of 32-bit programs.
            for foreign in [0x4000_0003, 0x4000_0028] {
                assert_eq!(run(&program, foreign, 0, [0; 6]), KILL_PROCESS);
            }
            assert_eq!(run(&program, architecture.audit(), 0, [0; 6]), ALLOW);
        }
        let program = compile(of(&[Group::Terminal]), Architecture::X86_64).unwrap();
        assert_eq!(run(&program, 0xC000_003E, X32 | 1, [0; 6]), ERRNO | 38);
    }

    #[test]
    fn sockets_are_told_apart() {
        let families = [Group::Families];
        for allowed in
            [[1, 1, 0], [1, 5, 0], [2, 1, 0], [2, 1, 6], [10, 0x80801, 6], [2, 2, 17], [10, 2, 0], [16, 3, 0]]
        {
            assert!(socket(&families, allowed), "{allowed:?}");
        }
        let refused = [
            [2, 1, 262],
            [10, 1, 262],
            [2, 1, 132],
            [2, 1, 256],
            [2, 3, 1],
            [10, 3, 58],
            [2, 2, 1],
            [2, 2, 136],
            [2, 5, 132],
            [2, 10, 0],
            [16, 3, 9],
            [16, 2, 15],
            [17, 3, 0],
            [38, 5, 0],
            [40, 1, 0],
            [29, 3, 1],
            [44, 3, 0],
            [0, 1, 0],
            [43, 1, 0],
            [1 << 32 | 17, 3, 0],
            [0xFFFF_FFFF_0000_0002, 3, 0],
        ];
        for refused in refused {
            assert!(!socket(&families, refused), "{refused:?}");
        }
        let tight = [Group::Families, Group::NoNetwork, Group::NoUnixSockets];
        assert!(!socket(&tight, [1, 1, 0]) && !socket(&tight, [2, 1, 0]) && !socket(&tight, [10, 2, 0]));
        assert!(socket(&tight, [16, 3, 0]));
        let tcp = [Group::Families, Group::NoUdp];
        assert!(socket(&tcp, [2, 1, 0]) && !socket(&tcp, [2, 2, 0]) && !socket(&tcp, [10, 0x80802, 17]));
    }

    #[test]
    fn terminals_are_not_typed_into_whatever_the_upper_half_of_the_command_says() {
        let program = compile(of(&[Group::Terminal]), Architecture::X86_64).unwrap();
        let ioctl = |command: u64| run(&program, 0xC000_003E, 16, [0, command, 0, 0, 0, 0]);
        assert_eq!((ioctl(0x5412), ioctl(0xDEAD_0000_5412)), (ERRNO | 1, ERRNO | 1));
        assert_eq!(ioctl(0x5401), ALLOW);
    }

    #[test]
    fn namespaces_cannot_be_had_by_clone_and_threads_can() {
        let program = compile(of(&[Group::SystemCalls]), Architecture::X86_64).unwrap();
        let clone = |flags: u64| run(&program, 0xC000_003E, 56, [flags, 0, 0, 0, 0, 0]);
        for flag in [0x20000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(clone(flag | 17), ERRNO | 1, "{flag:#x}");
        }
        assert_eq!(clone(0x003D_0F00), ALLOW);
        assert_eq!(clone(0x4000_0000 >> 1 | 17), ERRNO | 1);
    }

    #[test]
    fn the_digest_names_the_program() {
        let digest = |groups: &[Group]| compile(of(groups), Architecture::X86_64).unwrap().digest();
        assert_eq!(digest(&[Group::Ptrace]), digest(&[Group::Ptrace]));
        assert_ne!(digest(&[Group::Ptrace]), digest(&[Group::Terminal]));
        assert_eq!(digest(&[]).len(), 64);
    }
}
