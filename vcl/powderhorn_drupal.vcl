# Drupal (varnish_purge, the zero-configuration purger): BAN or PURGE with * in the URL, of /site for all there is, and of
# /.* for all of a site. To be included before powderhorn_clients.vcl, which has the rest (BAN with Cache-Tags, PURGE of
# a URL), and before powderhorn_shopware.vcl.
#
# The purger takes any answer for a success, so nothing that it sends may be refused. It names the site in Host, but for
# /site: that reaches the cache by the address in reverse_proxy_addresses, an IP address or a name with a dot, which looks
# like a site's. So /site takes away all there is, whatever the Host.
#
# In the URL of a BAN, * and .* both stand for anything: its VCL has it as a regular expression, Drupal's form as
# wildcards.
#
# A page of your own whose URL has a * in it or is /site can only be purged along with others.
#
# Read from: varnish_purge's ZeroConfigPurger and zeroconfig.vcl, 8.x (BAN /site) and later (BAN /.*).

sub vcl_recv {
	if ((req.method == "PURGE" || req.method == "BAN" && !req.http.X-Acquia-Purge) && req.url == "/site") {
		call powderhorn_admit;
		set req.http.X-Powderhorn-Id = powderhorn.purge_all();
		call powderhorn_answer;
	}
	if (req.method == "BAN" && !req.http.X-Acquia-Purge && !req.http.Cache-Tags && req.url ~ "\*") {
		call powderhorn_admit;
		if (req.url == "/.*" || req.url == "/*") {
			# Without a request of its own, as from a shell, Drupal may name no site.
			if (req.http.X-Powderhorn-Any-Host) {
				set req.http.X-Powderhorn-Id = powderhorn.purge_all();
			} else {
				set req.http.X-Powderhorn-Id = powderhorn.flush(req.http.Host);
			}
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.ban_url(
			    powderhorn.glob(regsuball(req.url, "\.\*", "*")));
		}
		call powderhorn_answer;
	}
	if (req.method == "PURGE" && req.url ~ "\*") {
		call powderhorn_admit;
		set req.http.X-Powderhorn-Id = powderhorn.ban_url(powderhorn.glob(req.url));
		call powderhorn_answer;
	}
}
