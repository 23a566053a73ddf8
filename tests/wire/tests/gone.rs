//! Nothing is left of a wire: no thread, no device, no namespace; also after a panic. Alone in its process, so that all of it can be counted.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by where it stops")]

use std::fs::{read_dir, read_link, read_to_string};
use std::time::Duration;

use longhaul_test_wire::{Shape, Wire, wire_or_skip};

/// Threads, devices and namespaces of wires that this process holds.
fn held() -> (usize, usize, usize) {
    let threads = read_dir("/proc/self/task").unwrap().flatten().map(|task| read_to_string(task.path().join("comm")));
    let threads = threads.filter(|name| name.as_deref().is_ok_and(|name| name.trim() == "wire")).count();
    let files = || read_dir("/proc/self/fd").unwrap().flatten().filter_map(|file| read_link(file.path()).ok());
    let devices = files().filter(|file| file.ends_with("net/tun")).count();
    (threads, devices, files().filter(|file| file.to_string_lossy().starts_with("net:[")).count())
}

#[test]
fn nothing_is_left_of_a_wire() {
    let shape = Shape::new(100.0, Duration::from_millis(1), Duration::from_millis(10));
    let before = held();
    let Some(wire) = wire_or_skip("nothing_is_left_of_a_wire", shape) else { return };
    // The thread may not have its name yet.
    let (_, devices, namespaces) = held();
    assert_eq!(devices, before.1 + 2);
    assert!(namespaces > before.2);
    drop(wire);
    assert_eq!(held(), before);
    let panicked = std::thread::spawn(move || {
        let _wire = Wire::lay(shape).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(held(), before);
}
