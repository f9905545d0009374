//! temp
use std::{path::*,time::Duration,net::SocketAddr};
#[derive(Debug)] pub struct Error(pub String);
impl std::fmt::Display for Error { fn fmt(&self,f:&mut std::fmt::Formatter<'_>)->std::fmt::Result{f.write_str(&self.0)} }
#[derive(Debug,Default,Clone,Copy,PartialEq)] pub enum Auth{#[default]On,Off}
#[derive(Debug,Default)] pub struct Flags{pub addr:Option<String>,pub root:Option<String>,pub key:Option<PathBuf>,pub cert:Option<PathBuf>,pub auth:Auth}
#[derive(Debug)] pub enum KeyStoreConfig{Memory,Fs{path:PathBuf},Vault{},KeySecure{}}
pub struct Cache{pub any:Option<Duration>,pub unused:Option<Duration>}
pub struct LogC{pub audit:bool,pub error:bool}
pub struct Config{pub address:SocketAddr,pub root:String,pub tls_key:PathBuf,pub tls_cert:PathBuf,pub auth:Auth,pub policies:crate::policy::Policies,pub cache:Cache,pub log:LogC,pub keys:Vec<String>,pub key_store:KeyStoreConfig}
impl Config{ pub fn from_flags(f:&Flags)->Result<Self,Error>{ let root=f.root.clone().unwrap_or_default(); Ok(Config{address:f.addr.clone().unwrap().parse().unwrap(),policies:crate::policy::Policies{root:root.clone()},root,tls_key:f.key.clone().unwrap(),tls_cert:f.cert.clone().unwrap(),auth:f.auth,cache:Cache{any:None,unused:None},log:LogC{audit:std::env::var_os("AUDIT").is_some(),error:true},keys:vec![],key_store:match std::env::var_os("KESDIR"){Some(p)=>KeyStoreConfig::Fs{path:p.into()},None=>KeyStoreConfig::Memory}})}
pub fn from_file(_:&Path,f:&Flags)->Result<Self,Error>{Self::from_flags(f)} }
