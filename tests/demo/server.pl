use strict;
use warnings;
use IO::Socket::INET;

my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1,
) or die "listening on port $ENV{PORT}: $!";
while (my $client = $listener->accept) {
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    open my $file, '<', 'public/index.html' or die "reading the page: $!";
    my $page = do { local $/; <$file> };
    print $client "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: " . length($page) . "\r\n\r\n$page";
    close $client;
}
