# Drupal's Acquia Purge: BAN with X-Acquia-Purge, which names the site. To be included before
# powderhorn_clients.vcl, which has the PURGE of a URL.
#
# BAN /tags with X-Acquia-Purge-Tags purges these tags of the site, BAN /site all of the site, and any other BAN
# its URL, in which * stands for anything, on its Host. Objects get a surrogate key "site/tag" for each tag, beside
# keys of their own.
#
# The token that X-Acquia-Purge holds in a PURGE is not looked at: powderhorn_purgers says who may purge.
#
# Read from: acquia_purge 8.x-1.x.

sub vcl_recv {
	if (req.method == "BAN" && req.http.X-Acquia-Purge) {
		call powderhorn_admit;
		if (req.http.X-Acquia-Purge-Tags || req.url == "/site") {
			# It becomes a part of keys.
			if (req.http.X-Acquia-Purge !~ "^[0-9A-Za-z._-]+$") {
				return (synth(400, "X-Acquia-Purge does not name a site"));
			}
			if (req.http.X-Acquia-Purge-Tags) {
				set req.http.X-Powderhorn-Id = powderhorn.purge_key(
				    regsuball(req.http.X-Acquia-Purge-Tags, "([^, ]+)", req.http.X-Acquia-Purge + "/\1"));
			} else {
				set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.X-Acquia-Purge + "/");
			}
			call powderhorn_answer;
		}
		if (req.url == "/tags") {
			return (synth(400, "X-Acquia-Purge-Tags header required"));
		}
		set req.http.X-Powderhorn-Id = powderhorn.ban_url(powderhorn.glob(req.url));
		call powderhorn_answer;
	}
}

sub vcl_backend_response {
	if (beresp.http.X-Acquia-Site) {
		set beresp.http.X-Powderhorn-Keys = beresp.http.X-Acquia-Site + "/ " +
		    regsuball(beresp.http.X-Acquia-Purge-Tags, "([^, ]+)", beresp.http.X-Acquia-Site + "/\1");
	}
}

sub vcl_deliver {
	if (client.ip !~ powderhorn_purgers) {
		unset resp.http.X-Acquia-Purge-Tags;
		unset resp.http.X-Acquia-Site;
	}
}
