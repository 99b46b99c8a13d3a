# Serves the page that the installation made, on the socket that it is given, or on $PORT or a free port.
use strict;
use warnings;
use Socket;

open(my $file, '<', 'public/index.html') or die "public/index.html: $!\n";
my $page = do { local $/; <$file> };

my $server;
if (($ENV{LISTEN_PID} // 0) == $$) {
    open($server, '+<&=', 3) or die "descriptor 3: $!\n";
} else {
    socket($server, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
    setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
    bind($server, sockaddr_in($ENV{PORT} || 0, INADDR_LOOPBACK)) or die "bind: $!\n";
    listen($server, 8) or die "listen: $!\n";
}
$| = 1;
my ($port) = sockaddr_in(getsockname($server));
print "listening on http://127.0.0.1:$port/\n";
$SIG{PIPE} = 'IGNORE';
while (accept(my $client, $server)) {
    my $request = <$client> // '';
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/; }
    my ($status, $body) = $request =~ m{^GET / } ? ('200 OK', $page) : ('404 Not Found', "not found\n");
    print $client "HTTP/1.0 $status\r\nContent-Type: text/html; charset=utf-8\r\n\r\n$body";
    close($client);
}
