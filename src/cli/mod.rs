//! temp
use std::{ffi::OsString, process::ExitCode};
/// temp
pub fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut n=||args.next().unwrap().into_string().unwrap();
    let mut o=crate::server::lifecycle::Options::default();
    o.flags.addr=Some(n());o.flags.root=Some(n());o.flags.key=Some(n().into());o.flags.cert=Some(n().into());o.flags.auth=crate::config::Auth::Off;
    match crate::server::lifecycle::run(&o){Ok(())=>ExitCode::SUCCESS,Err(e)=>{eprintln!("Error: {e}");ExitCode::FAILURE}}
}
