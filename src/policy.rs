//! temp
/// temp
#[derive(Clone, Debug, Default)]
pub struct Policies{pub root:String}
impl Policies { pub fn allows(&self, identity:&str, _path:&str)->bool { !identity.is_empty() && identity==self.root } }
