# FOSHttpCache's refresh: a GET with Cache-Control: no-cache, from a client of powderhorn_purgers, purges its object on
# all nodes and fetches it again on this one; the answer has the purge's id. To be included just before
# powderhorn.vcl or powderhorn_clients.vcl.
#
# Not among those that are included anyway: a browser sends the same when somebody reloads a page. Where the
# connections of all clients come from an address of powderhorn_purgers (a TLS proxy without the PROXY protocol),
# anybody could do it; but then anybody could purge as well.
#
# Other than in FOSHttpCache's own VCL, the old object is gone even if the new one cannot be fetched.
#
# Read from: FOSHttpCache 2.15 and 3.0.

sub vcl_recv {
	if (req.restarts == 0) {
		unset req.http.X-Powderhorn-Refresh;
		if (req.method == "GET" && req.esi_level == 0 && req.http.Cache-Control ~ "(?i)no-cache" &&
		    client.ip ~ powderhorn_purgers && req.http.X-Forwarded-For !~ ",") {
			# What is hashed is to be what a lookup hashes.
			call powderhorn_host;
			set req.http.X-Powderhorn-Refresh = "yes";
			# To vcl_purge, by when vcl_hash has said which object is meant.
			return (purge);
		}
	}
}

sub vcl_purge {
	if (req.http.X-Powderhorn-Refresh == "yes") {
		set req.http.X-Powderhorn-Id = powderhorn.purge_hash();
		if (req.http.X-Powderhorn-Id == "") {
			set req.http.X-Powderhorn-Answer = "text";
			call powderhorn_answer;
		}
		set req.http.X-Powderhorn-Refresh = req.http.X-Powderhorn-Id;
		return (restart);
	}
}

sub vcl_deliver {
	if (req.http.X-Powderhorn-Refresh) {
		set resp.http.X-Powderhorn-Id = req.http.X-Powderhorn-Refresh;
	}
}
