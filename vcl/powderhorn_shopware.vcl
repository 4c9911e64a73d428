# Shopware 6: a bare BAN takes away all of a shop. To be included before powderhorn_clients.vcl, which has the
# rest of what Shopware sends (PURGE with xkey, PURGE of a URL).
#
# Of which shop, the Host says. If Shopware reaches the cache by an address that is none of a shop's
# (an IP address, or a name without a dot such as varnish), it means all there is, and a PURGE of a
# URL means that URL of all hosts. Where it is another name, let shopware.http_cache.reverse_proxy.hosts be
# the shop's own, or an IP address.
#
# Read from: Shopware's VarnishReverseProxyGateway, 6.5 to 6.7, and varnish-shopware's VCL for 6.7 and 6.8.

sub vcl_recv {
	if (req.method == "BAN" && !req.http.X-Cache-Tags && !req.http.X-Host && !req.http.X-Url &&
	    !req.http.X-Content-Type && !req.http.X-Site && !req.http.Cache-Tags &&
	    !req.http.Purge-Cache-Tags && !req.http.ApiPlatform-Ban-Regex && !req.http.X-Acquia-Purge) {
		call powderhorn_admit;
		# Shopware sends no path. One would be somebody else's idea.
		if (req.url != "/") {
			return (synth(400, "A BAN of Shopware is one of /"));
		}
		if (req.http.X-Powderhorn-Any-Host) {
			set req.http.X-Powderhorn-Id = powderhorn.purge_all();
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.flush(req.http.Host);
		}
		call powderhorn_answer;
	}
	if (req.method == "PURGE" && !req.http.xkey && !req.http.Surrogate-Key && !req.http.X-Purge-Method) {
		call powderhorn_admit;
		if (req.http.X-Powderhorn-Any-Host) {
			set req.http.X-Powderhorn-Id = powderhorn.ban_url(
			    "^" + powderhorn.escape(req.url) + "$", "*");
			call powderhorn_answer;
		}
	}
}
