# Who may send a PURGE. Copy this file to /etc/varnish and add your application servers there.
# The address is that of the client's connection (client.ip), never of X-Forwarded-For.
acl powderhorn_purgers {
	"localhost";
	"127.0.0.0"/8;
	"::1";
}
