# Neos (Flowpack.Varnish): several sites of Neos behind one fleet, each of which purges tags of its own, by
# X-Site. To be included before powderhorn_clients.vcl.
#
# Without this file such a purge is a ban, and a thousand bytes of tags fit into one. With it the tags of a site are
# surrogate keys, "site/tag", and any number is purged at once.
#
# Read from: Flowpack.Varnish 6, which uses FOSHttpCache 2.

sub vcl_recv {
	if (req.method == "BAN" && req.http.X-Cache-Tags && req.http.X-Site ~ "^[0-9A-Za-z_-]+$" &&
	    req.http.X-Host == ".*" && req.http.X-Url == ".*" && req.http.X-Content-Type == ".*") {
		call powderhorn_admit;
		set req.http.X-Powderhorn-Keys = powderhorn.tags("X-Powderhorn-Keys", req.http.X-Cache-Tags);
		# What does more than name tags is for powderhorn_clients.vcl.
		if (req.http.X-Powderhorn-Keys != "") {
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(
			    regsuball(req.http.X-Powderhorn-Keys, "([^ ]+)", req.http.X-Site + "/\1"));
			call powderhorn_answer;
		}
	}
}

sub vcl_backend_response {
	if (beresp.http.X-Site && beresp.http.X-Cache-Tags) {
		set beresp.http.X-Powderhorn-Keys = regsuball(beresp.http.X-Cache-Tags, "([^, ]+)",
		    beresp.http.X-Site + "/\1");
	}
}
