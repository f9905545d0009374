//! temp
pub fn matches(p:&str,n:&str)->bool{ match p.strip_suffix('*'){Some(x)=>n.strip_prefix(x).is_some_and(|r|!r.contains('/')),None=>p==n} }
