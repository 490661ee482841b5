//! The threads that queries run on.
//!
//! They are queries' own, so that their priority can be lower than that of the threads that take writes, and so that a query
//! that computes for long holds up nothing else.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What a thread runs.
type Job = Box<dyn FnOnce() + Send>;

/// Room for the deepest expression that the parser allows, in a debug build.
pub const STACK_BYTES: usize = 8 << 20;

/// How much lower the priority is, in steps of nice(2).
const NICENESS: i32 = 10;

/// A fixed number of threads. They end when this is dropped and their jobs are done.
pub struct Threads(Sender<Job>);

impl Threads {
    /// Starts them.
    pub fn start(count: usize, stack_bytes: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..count {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new().name("query".to_owned()).stack_size(stack_bytes).spawn(move || work(&receiver))?;
        }
        Ok(Self(sender))
    }

    /// Runs a job as soon as a thread is free. It must not panic.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The receiver lives as long as a thread does, and threads live as long as the sender.
        let _ = self.0.send(Box::new(job));
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    // Of this thread alone, on Linux. Where it is not allowed queries run all the same.
    let _ = rustix::process::nice(NICENESS);
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_beside_each_other_at_a_lower_priority() {
        let threads = Threads::start(2, STACK_BYTES).unwrap();
        let (to_first, from_second) = mpsc::channel();
        let (to_second, from_first) = mpsc::channel();
        let (done, ended) = mpsc::channel();
        let both_done = done.clone();
        threads.run(move || {
            to_second.send(()).unwrap();
            from_second.recv().unwrap();
            done.send(rustix::process::nice(0).unwrap()).unwrap();
        });
        threads.run(move || {
            from_first.recv().unwrap();
            to_first.send(()).unwrap();
            both_done.send(rustix::process::nice(0).unwrap()).unwrap();
        });
        let here = rustix::process::nice(0).unwrap();
        for niceness in ended.iter().take(2) {
            assert_eq!(niceness, (here + NICENESS).min(19));
        }
    }
}
