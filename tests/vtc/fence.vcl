# For the VTCs of the fence. The VTC has the backends origin_old and origin_new and imports powderhorn.
#
# A GET goes to origin_old, which the VTC holds up. With X-New, or when a fetch is tried again,
# it goes to origin_new.

sub vcl_recv {
	# Waits for what is fetched in the background.
	if (req.http.X-Fresh) {
		set req.grace = 0s;
	}
	if (req.method == "INVALIDATE") {
		if (req.http.X-Kind == "url") {
			return (synth(200, powderhorn.purge(req.url)));
		}
		if (req.http.X-Kind == "url soft") {
			return (synth(200, powderhorn.purge(req.url, soft = true)));
		}
		if (req.http.X-Kind == "key") {
			return (synth(200, powderhorn.purge_key("key" + req.url)));
		}
		if (req.http.X-Kind == "key soft") {
			return (synth(200, powderhorn.purge_key("key" + req.url, true)));
		}
		if (req.http.X-Kind == "ban url") {
			return (synth(200, powderhorn.ban_url("^" + powderhorn.escape(req.url) + "$")));
		}
		if (req.http.X-Kind == "ban header") {
			return (synth(200, powderhorn.ban_header("X-Tag", "^tag" + req.url + "$")));
		}
		if (req.http.X-Kind == "flush") {
			return (synth(200, powderhorn.flush(req.http.Host)));
		}
		if (req.http.X-Kind == "all") {
			return (synth(200, powderhorn.purge_all()));
		}
		if (req.http.X-Kind == "all soft") {
			return (synth(200, powderhorn.purge_all(true)));
		}
		return (synth(400, "no such kind"));
	}
}

sub vcl_backend_fetch {
	if (bereq.http.X-New || bereq.retries > 0) {
		set bereq.backend = origin_new;
	} else {
		set bereq.backend = origin_old;
	}
}

sub vcl_backend_response {
	set beresp.http.x-url = bereq.url;
	set beresp.http.x-host = bereq.http.Host;
	set beresp.http.Surrogate-Key = "all-pages key" + bereq.url;
	set beresp.http.X-Tag = "tag" + bereq.url;
}

sub vcl_deliver {
	set resp.http.X-Hits = obj.hits;
	set resp.http.X-TTL = obj.ttl;
}

# No id: it failed, and varnishlog's VCL_Error says why.
sub vcl_synth {
	if (req.method == "INVALIDATE" && resp.status == 200 && resp.reason !~ "^[0-9a-z.-]+:[0-9-]+$") {
		set resp.status = 503;
	}
	return (deliver);
}
