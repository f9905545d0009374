//! Honest clients, who must not notice what others do.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Client, Http2, Response, Server};

/// Clients that work all the time, each on a connection of its own, and count what goes wrong.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

/// Asks for a data key, over the connection that it keeps.
type Ask = Box<dyn FnMut() -> io::Result<Response>>;

const GENERATE: &str = "/v1/key/generate/my-key";

impl Crowd {
    /// Over HTTP/1.1.
    pub fn start(server: &Server, size: usize) -> Self {
        Self::of(server, size, |client| {
            let mut connection = client.try_connect()?;
            Ok(Box::new(move || connection.try_request("POST", GENERATE, b"{}")))
        })
    }

    /// Over HTTP/2.
    pub fn start_http2(server: &Server, size: usize) -> Self {
        Self::of(server, size, |client| {
            let mut connection = Http2::try_open(client)?;
            Ok(Box::new(move || connection.try_request("POST", GENERATE, b"{}")))
        })
    }

    fn of(server: &Server, size: usize, connect: fn(&Client) -> io::Result<Ask>) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..size)
            .map(|_| {
                let (client, stop, served) = (server.root(), stop.clone(), served.clone());
                std::thread::spawn(move || {
                    let mut errors = Vec::new();
                    let mut ask = connect(&client);
                    while !stop.load(Ordering::Relaxed) {
                        let answer = match &mut ask {
                            Ok(ask) => ask().map_err(|e| e.to_string()),
                            Err(e) => Err(e.to_string()),
                        };
                        match answer {
                            Ok(answer) if answer.status == 200 => {
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(answer) => errors.push(answer.text().to_owned()),
                            Err(e) => {
                                errors.push(e);
                                ask = connect(&client);
                            }
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    errors
                })
            })
            .collect();
        Self { stop, served, threads }
    }

    /// How many requests were served so far.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// How many requests were served, none with an error.
    #[track_caller]
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            assert_eq!(Vec::<String>::new(), thread.join().unwrap());
        }
        self.served.load(Ordering::Relaxed)
    }
}
