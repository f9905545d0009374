module linearizable

go 1.19 // that of the oldest Debian we build on
