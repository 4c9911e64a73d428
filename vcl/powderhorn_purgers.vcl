# Who may send a PURGE. Copy this file to /etc/varnish and add your application servers there.
# The address is that of the client's connection (client.ip), never of X-Forwarded-For. So who comes by way of
# a proxy (for TLS, say) has the proxy's address: have it speak the PROXY protocol to Varnish. A request that says
# by X-Forwarded-For that a proxy has passed it on is refused, but not all proxies say so: without the PROXY
# protocol, do not let in the address of one that the world can reach.
acl powderhorn_purgers {
	"localhost";
	"127.0.0.0"/8;
	"::1";
}
