# Drupal (varnish_purge, the zero-configuration purger): PURGE with * in the URL, and PURGE /site for all of a
# site. To be included before powderhorn_clients.vcl, which has the rest (BAN with Cache-Tags, PURGE of a URL).
#
# The purger names the site in Host for a URL, but not for /site: that reaches the cache by an IP address, and
# takes away all there is. With a site's Host it takes away all of that site.
#
# A page of your own whose URL has a * in it or is /site can only be purged along with others.
#
# Read from: varnish_purge's ZeroConfigPurger, 8.x.

sub vcl_recv {
	if (req.method == "PURGE" && req.url == "/site") {
		call powderhorn_admit;
		if (req.http.X-Powderhorn-Any-Host) {
			set req.http.X-Powderhorn-Id = powderhorn.purge_all();
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.flush(req.http.Host);
		}
		call powderhorn_answer;
	}
	if (req.method == "PURGE" && req.url ~ "\*") {
		call powderhorn_admit;
		set req.http.X-Powderhorn-Id = powderhorn.ban_url(powderhorn.glob(req.url));
		call powderhorn_answer;
	}
}
