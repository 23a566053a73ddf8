//! A process that this benchmark started and measures from outside: its own program in another role, asked over its standard input, or another
//! program, which is only measured.
//!
//! The first ends when its standard input does, so that none outlives a benchmark, however that ends; the second when it is dropped.
#![expect(clippy::print_stdout, reason = "a child answers on its standard output")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// What the kernel counts CPU time in, on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running child.
pub struct Child {
    process: Process,
    questions: Option<ChildStdin>,
    answers: Option<Lines<BufReader<ChildStdout>>>,
}

impl Child {
    /// Starts this very program again with these arguments and waits until it says that it is ready. Returns what it said with it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(arguments: &[&str]) -> (Self, String) {
        let program = std::env::current_exe().expect("a program knows its own path");
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program can start itself");
        let answers = BufReader::new(process.stdout.take().expect("its output is piped")).lines();
        let mut child = Self { questions: process.stdin.take(), process, answers: Some(answers) };
        let ready = child.answer();
        (child, ready)
    }

    /// Starts another program, which is only measured.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_program(program: &Path, arguments: &[&str]) -> Self {
        let process = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self { process: process.expect("the program can be started"), questions: None, answers: None }
    }

    /// Asks how much it has done so far.
    ///
    /// # Panics
    /// When it has ended, or answers with something else.
    pub fn count(&mut self) -> u64 {
        let questions = self.questions.as_mut().expect("open until dropped");
        writeln!(questions, "count").expect("the child lives");
        self.answer().parse().expect("a child answers with a number")
    }

    fn answer(&mut self) -> String {
        self.answers
            .as_mut()
            .and_then(Iterator::next)
            .and_then(Result::ok)
            .expect("the child lives and answers; see above for what it said")
    }

    /// CPU time that it has used so far, in user and in kernel mode.
    ///
    /// # Panics
    /// Where there is no `/proc`.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let text = self.proc("stat");
        // The name in parentheses may contain anything; what follows it does not.
        let fields: Vec<&str> = text.rsplit_once(')').expect("a name in parentheses").1.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks are a number");
        Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
    }

    /// The most memory that it ever had resident, in bytes.
    ///
    /// # Panics
    /// Where there is no `/proc`.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let text = self.proc("status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says so");
        let kib = line.trim().trim_end_matches("kB").trim().parse::<u64>();
        kib.expect("a number of KiB") * 1024
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).expect("Linux tells of a process")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the child: says that it is ready, then how much it has done whenever it is asked, until its parent is gone.
pub fn serve(ready: &str, count: impl Fn() -> u64) {
    println!("{ready}");
    for _ in std::io::stdin().lines().map_while(Result::ok) {
        println!("{}", count());
    }
}
