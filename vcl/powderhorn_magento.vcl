# Magento 2 and Adobe Commerce: PURGE with a pattern of tags. To be included before powderhorn.vcl or
# powderhorn_clients.vcl.
#
# Each PURGE must have X-Magento-Tags-Pattern or X-Pool: one with neither is answered with 400, as Magento's
# own VCL does, and purges nothing.
#
# A pattern that only names tags is purged by them as surrogate keys; another is a ban on X-Magento-Tags, and
# so is the ".*" of a flush.
#
# Read from: magento2 2.4's PurgeCache and InvalidateVarnishObserver, and its varnish7.vcl.

sub vcl_recv {
	if (req.method == "PURGE") {
		call powderhorn_admit;
		if (!req.http.X-Magento-Tags-Pattern && !req.http.X-Pool) {
			return (synth(400, "X-Magento-Tags-Pattern or X-Pool header required"));
		}
		if (req.http.X-Pool) {
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("X-Pool", req.http.X-Pool);
			# With a pattern as well it takes both to answer 200.
			if (!req.http.X-Magento-Tags-Pattern || req.http.X-Powderhorn-Id == "") {
				call powderhorn_answer;
			}
			set req.http.X-Powderhorn-First = req.http.X-Powderhorn-Id;
		}
		set req.http.X-Powderhorn-Keys = powderhorn.tags("X-Magento-Tags", req.http.X-Magento-Tags-Pattern);
		if (req.http.X-Powderhorn-Keys != "") {
			set req.http.X-Powderhorn-Id = powderhorn.purge_key(req.http.X-Powderhorn-Keys);
		} else {
			set req.http.X-Powderhorn-Id = powderhorn.ban_header("X-Magento-Tags",
			    req.http.X-Magento-Tags-Pattern);
		}
		call powderhorn_answer;
	}
}

sub vcl_deliver {
	if (client.ip !~ powderhorn_purgers) {
		unset resp.http.X-Magento-Tags;
		unset resp.http.X-Pool;
	}
}

sub vcl_synth {
	# A VCL that failed has lost what it noted in the request. 400, and the reason.
	if (req.method == "PURGE" && powderhorn.refused()) {
		set req.http.X-Powderhorn-Answer = "text";
	}
}
