//! Turns of the workers: nobody has one to no purpose, and nobody waits long for one.

use std::{
    net::Shutdown,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::common::{
    Appliance, Connection, Crowd, Server, client::request, quickly, stored_key, wait_until,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

fn start() -> Server {
    Server::start(|config| {
        config.audit = "on";
        std::fs::write(config.keys().join("my-key"), stored_key(&[1; 32])).unwrap();
    })
}

/// Starts a server on one core, which is all that it may use.
fn start_on_one_core() -> Server {
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|&core| all.is_set(core)).unwrap());
    // A process inherits them from the thread that starts it.
    sched_setaffinity(None, &one).unwrap();
    let server = start();
    sched_setaffinity(None, &all).unwrap();
    server
}

/// Never stops to send requests that nobody reads the answers of one by one, while others ask and wait.
#[track_caller]
fn others_are_served_beside_a_client_that_never_stops(server: &Server) {
    let is_over = AtomicBool::new(false);
    let greedy_served = AtomicU32::new(0);
    let many = request("POST", "/v1/key/generate/my-key", b"{}").repeat(100);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = server.root().connect();
            while !is_over.load(Ordering::Relaxed) {
                connection.send(&many);
                for _ in 0..100 {
                    connection.response().is_json_success();
                }
                greedy_served.fetch_add(100, Ordering::Relaxed);
            }
        });
        let mut others: Vec<_> = (0..8).map(|_| server.root().connect()).collect();
        let (mut longest, mut served) = (Duration::ZERO, 0);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) || served < 16 {
            for connection in &mut others {
                let asked = Instant::now();
                connection.request("POST", "/v1/key/generate/my-key", "{}").is_json_success();
                longest = longest.max(asked.elapsed());
                served += 1;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        // The other one never stops.
        assert!(longest < Duration::from_secs(15), "{longest:?} for a request of others");
    });
    assert!(greedy_served.load(Ordering::Relaxed) >= 100);
}

#[test]
fn a_client_that_never_stops_does_not_starve_others() {
    others_are_served_beside_a_client_that_never_stops(&start());
}

#[test]
fn one_core_is_enough() {
    let server = start_on_one_core();
    others_are_served_beside_a_client_that_never_stops(&server);
    let crowd = Crowd::start(&server, 16);
    let crowd_http2 = Crowd::start_http2(&server, 4);
    wait_until("both are served", || crowd.served() > 50 && crowd_http2.served() > 10);
    crowd.stop();
    crowd_http2.stop();
}

#[test]
fn clients_that_wait_for_the_key_store_cost_no_time_until_all_are_answered_at_once() {
    quickly(Duration::from_secs(14), |clock| {
        let appliance = Appliance::start();
        let server = Server::start(|config| {
            appliance.configure(config);
            config.audit = "off";
        });
        let connect = || server.root().connect();
        let mut patient: Vec<Connection> = (0..40).map(|_| connect()).collect();
        let mut half_closed: Vec<Connection> = (0..10).map(|_| connect()).collect();
        let mut gone: Vec<Connection> = (0..10).map(|_| connect()).collect();
        appliance.pause();
        clock.start();
        let all = patient.iter_mut().chain(&mut half_closed).chain(&mut gone);
        for (number, connection) in all.enumerate() {
            let path = format!("/v1/key/generate/missing-{number}");
            // The second can't be read before the first is answered.
            connection.send(request("POST", &path, b"{}"));
            std::thread::sleep(Duration::from_millis(2));
            connection.send(request("GET", "/version", b""));
        }
        half_closed.iter_mut().for_each(|connection| connection.half_close());
        for connection in gone {
            let _ = connection.socket().shutdown(Shutdown::Both);
        }
        server.comes_to_rest();
        appliance.go_on();
        for connection in patient.iter_mut().chain(&mut half_closed) {
            assert_eq!(404, connection.response().status);
            connection.response().is_json_success();
        }
        for mut connection in half_closed {
            assert!(connection.is_closed());
        }
    });
}
