//! temp
use std::{collections::HashMap,sync::Mutex,time::{Duration,Instant}};
use crate::keystore::KeyName;
pub struct Expiry{pub any:Option<Duration>,pub unused:Option<Duration>}
pub struct Ticket<W>(KeyName,W);
pub enum Lookup<V,W>{Hit(V,W),Waiting,Fetch(Ticket<W>)}
pub struct Cache<V,W>(Mutex<HashMap<KeyName,V>>,std::marker::PhantomData<fn(W)>);
impl<V:Clone,W> Cache<V,W>{
pub fn new(_:usize,_:Expiry)->Self{Self(Mutex::default(),std::marker::PhantomData)}
pub fn get(&self,n:&KeyName,_:Instant)->Option<V>{self.0.lock().ok()?.get(n).cloned()}
pub fn get_or_wait(&self,n:&KeyName,w:W,_:Instant)->Lookup<V,W>{Lookup::Fetch(Ticket(n.clone(),w))}
pub fn complete(&self,t:Ticket<W>,v:Option<V>,_:Instant)->Vec<W>{ if let (Some(v),Ok(mut m))=(v,self.0.lock()){m.insert(t.0,v);} vec![t.1]}
pub fn remove(&self,n:&KeyName){ if let Ok(mut m)=self.0.lock(){m.remove(n);} }
pub fn expire(&self,_:Instant){}
}
